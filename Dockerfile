# A classifier on an x86 (or 64-bit Arm) processor: ONNX Runtime and OpenVINO, without PyTorch.
#
#     docker build -t clipdistill .
#     docker run --rm -v "$PWD:/data:ro" clipdistill predict classifier.onnx photos
#
# docs/deploy.md has more, and the one for a Jetson.
FROM python:3.12-slim

RUN useradd --create-home classifier
WORKDIR /srv/clipdistill
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt '.[openvino]' \
    && clipdistill doctor base openvino --strict

USER classifier
WORKDIR /data
ENTRYPOINT ["clipdistill"]
CMD ["doctor"]
