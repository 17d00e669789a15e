// The classifier: loads classifier.onnx and answers images, away from the page's own thread.

import { metadata } from "./onnx.js";
import { averaged, fractionOf, normalize, toPixels } from "./preprocess.js";
import { RUNTIME } from "./runtime.js";

const SHOWN = 5; // labels in an answer
const SHOWN_OF_SEVERAL = 12; // where an image may have several labels
const MOST_PIXELS = 50_000_000; // width x height of an image
const MOST_THREADS = 4; // more do not make a small network faster
const INPUT = "input", PROBABILITIES = "probabilities";

class Problem extends Error {} // a sentence for the visitor

let ort, session, preprocess, labels;
let thresholds = null; // of each label, where an image may have several

async function load() {
  const response = await fetch("classifier.onnx");
  if (!response.ok) throw new Problem(`classifier.onnx cannot be loaded: the host answered with status ${response.status}.`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const { card, classes } = read(bytes);
  ({ preprocess } = card);
  ({ labels } = classes);
  if (classes.independent) ({ thresholds } = classes.calibration?.independent ?? classes.independent);
  const place = await start(bytes, card.precision);
  const threshold = thresholds ? null : (classes.calibration?.threshold ?? 0);
  const about = { arch: card.arch, place, labels, independent: Boolean(thresholds), threshold };
  await run(new Float32Array(3 * preprocess.size ** 2)); // the first run is slow
  return about;
}

function read(bytes) {
  let card, classes;
  try {
    const values = metadata(bytes);
    card = JSON.parse(values.get("clipdistill.card"));
    classes = values.has("clipdistill.labels") && JSON.parse(values.get("clipdistill.labels"));
  } catch {
    throw new Problem("classifier.onnx is damaged, or not a file of clipdistill. Make it again with clipdistill export.");
  }
  if (!classes) throw new Problem("classifier.onnx has no labels. Give it some with clipdistill relabel.");
  return { card, classes };
}

// Opens the session; gives the place where it runs.
async function start(bytes, precision) {
  // WebGPU has no INT8 kernels.
  if (!precision.includes("int8") && (await hasGpu())) {
    try {
      await open(bytes, "ort.webgpu.min.mjs", "webgpu");
      return "WebGPU";
    } catch (error) {
      console.warn("WebGPU cannot run this classifier, the processor does.", error);
    }
  }
  await open(bytes, "ort.wasm.min.mjs", "wasm");
  return ort.env.wasm.numThreads > 1 ? `WebAssembly, ${ort.env.wasm.numThreads} threads` : "WebAssembly";
}

// A fallback adapter is the processor, which is faster without WebGPU.
async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

async function open(bytes, file, provider) {
  const base = new URL(RUNTIME, import.meta.url).href;
  ort = await import(base + file);
  ort.env.wasm.wasmPaths = base;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  session = await ort.InferenceSession.create(bytes, { executionProviders: [provider] });
}

async function run(input) {
  const { size } = preprocess;
  const tensor = new ort.Tensor("float32", input, [1, 3, size, size]);
  const outputs = await session.run({ [INPUT]: tensor }, [PROBABILITIES]);
  return outputs[PROBABILITIES].data;
}

// An encoded image -> RGBA {data, width, height}: upright, over white, without colour management.
async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Problem("This image cannot be used: it is damaged, or of a kind that this browser does not read.");
  }
  const { width, height } = bitmap;
  try {
    if (width * height > MOST_PIXELS) {
      throw new Problem(`This image has ${width}x${height} pixels; at most ${MOST_PIXELS / 1e6} million are taken.`);
    }
    const side = (await isJpeg(blob)) ? fractionOf(width, height, preprocess) : 1;
    if (side === 1) return pixelsOf(bitmap, width, height);
    const small = await decodeSmaller(blob, Math.ceil(width / side), Math.ceil(height / side));
    return small ?? averaged(pixelsOf(bitmap, width, height), side);
  } finally {
    bitmap.close();
  }
}

function pixelsOf(image, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, width, height);
}

// A JPEG as its decoder gives it at a fraction of its size, as Pillow's does; null where the browser has no such decoder.
async function decodeSmaller(blob, width, height) {
  if (!self.ImageDecoder) return null;
  const least = { desiredWidth: width + 1, desiredHeight: height + 1 }; // the next larger fraction is taken
  const decoder = new ImageDecoder({ type: "image/jpeg", data: await blob.arrayBuffer(), colorSpaceConversion: "none", ...least });
  try {
    const { image } = await decoder.decode();
    const found = [image.displayWidth, image.displayHeight];
    const pixels = found.join() === [width, height].join() ? pixelsOf(image, width, height) : null;
    image.close();
    return pixels;
  } catch {
    return null; // the average is as good where this decoder is not there for this file
  } finally {
    decoder.close();
  }
}

async function isJpeg(blob) {
  const [first, second] = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  return first === 0xff && second === 0xd8;
}

async function classify(blob) {
  const image = await decode(blob);
  const begin = performance.now();
  const shares = await run(normalize(toPixels(image, preprocess), preprocess));
  const milliseconds = performance.now() - begin;
  const ranked = labels.map((label, index) => (thresholds ? [label, shares[index], thresholds[index]] : [label, shares[index]]));
  const has = ([, share, least]) => Number(thresholds !== null && share >= least);
  ranked.sort((one, other) => has(other) - has(one) || other[1] - one[1]);
  const shown = thresholds ? Math.max(SHOWN_OF_SEVERAL, ranked.filter(has).length) : SHOWN;
  return { ranked: ranked.slice(0, shown), milliseconds };
}

// {number, blob} -> {number, value} or {number, problem, error}; without a blob the classifier is loaded.
self.addEventListener("message", async ({ data: { number, blob } }) => {
  try {
    self.postMessage({ number, value: await (blob ? classify(blob) : load()) });
  } catch (error) {
    self.postMessage({ number, problem: error instanceof Problem ? error.message : "", error: String(error) });
  }
});
