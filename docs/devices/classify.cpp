// ./classify classifier.onnx < image.rgb: the likeliest label of an image of the model's size, as raw RGB bytes.
// g++ -std=c++17 -I onnxruntime/include classify.cpp -L onnxruntime/lib -lonnxruntime -o classify
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

// The numbers of the list that follows a key, such as "mean":[0.485,0.456,0.406].
static std::vector<float> numbers(const std::string& json, const std::string& key) {
  std::vector<float> found;
  const char* at = json.c_str() + json.find("\"" + key + "\":[") + key.size() + 4;
  for (char* end; *at != ']'; at = *end == ',' ? end + 1 : end) found.push_back(std::strtof(at, &end));
  return found;
}

int main(int, char** argv) {
  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions{});
  Ort::AllocatorWithDefaultOptions memory;
  const auto facts = session.GetModelMetadata();
  const std::string card = facts.LookupCustomMetadataMapAllocated("clipdistill.card", memory).get();
  const std::string own = card.substr(card.find("\"preprocess\":"));  // the teacher's comes later
  const auto mean = numbers(own, "mean"), std = numbers(own, "std");
  const int64_t side = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape()[2];

  const std::vector<unsigned char> pixels{std::istreambuf_iterator<char>(std::cin), {}};
  std::vector<float> input(3 * side * side);
  if (pixels.size() != input.size()) return std::fprintf(stderr, "expected %zu bytes\n", input.size()), 1;
  for (size_t i = 0; i < input.size(); i++) {
    const size_t channel = i % 3;
    input[channel * side * side + i / 3] = (pixels[i] / 255.0f - mean[channel]) / std[channel];
  }
  const std::vector<int64_t> shape{1, 3, side, side};
  auto tensor = Ort::Value::CreateTensor<float>(
      Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), input.data(), input.size(), shape.data(), 4);
  const char *in = "input", *out = "probabilities";
  auto answers = session.Run(Ort::RunOptions{}, &in, &tensor, 1, &out, 1);

  const float* shares = answers[0].GetTensorData<float>();
  const size_t count = answers[0].GetTensorTypeAndShapeInfo().GetElementCount();
  const size_t best = std::max_element(shares, shares + count) - shares;
  std::printf("%zu %.6f\n", best, shares[best]);  // the number of the label in "clipdistill.labels", from 0
}
