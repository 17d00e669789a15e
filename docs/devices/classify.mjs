// node classify.mjs page photo.jpg: the likeliest labels of an image.  Beside it: npm install onnxruntime-node sharp
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import ort from "onnxruntime-node";
import sharp from "sharp";

const [page, photo] = process.argv.slice(2); // a folder of `clipdistill export --target web`, an image
const { metadata } = await import(pathToFileURL(`${page}/onnx.js`));
const { normalize, toPixels } = await import(pathToFileURL(`${page}/preprocess.js`));

const bytes = await readFile(`${page}/classifier.onnx`);
const [card, classes] = ["card", "labels"].map((key) => JSON.parse(metadata(bytes).get(`clipdistill.${key}`)));
const session = await ort.InferenceSession.create(bytes);
const image = await sharp(photo).rotate().flatten({ background: "#fff" }).ensureAlpha().raw().toBuffer({ resolveWithObject: true });
const pixels = toPixels({ data: image.data, ...image.info }, card.preprocess);
const shape = [1, 3, card.preprocess.size, card.preprocess.size];
const input = new ort.Tensor("float32", normalize(pixels, card.preprocess), shape);
const { probabilities } = await session.run({ input }, ["probabilities"]);

const ranked = classes.labels.map((label, index) => ({ label, probability: probabilities.data[index] }));
ranked.sort((one, other) => other.probability - one.probability);
console.log(JSON.stringify(ranked.slice(0, 5)));
