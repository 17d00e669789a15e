// Answers of the classifier in this folder, computed in this browser.

export class Problem extends Error {} // a sentence for the visitor

// A module with one vector instruction: (func (drop (i8x16.splat (i32.const 0)))).
const VECTORS = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11);
const MOST_BYTES = 20 << 20; // of an image
const CONTROL_MS = 2000; // the wait for the service worker, at most

let worker;
let asked = 0;
const waiting = new Map(); // number of a question -> what to do with its answer
let last = Promise.resolve(); // the newest question

// Ask the worker; without a blob it loads the classifier.
function ask(blob) {
  return new Promise((done, fail) => {
    waiting.set(++asked, { done, fail });
    worker.postMessage({ number: asked, blob });
  });
}

function start() {
  worker = new Worker("worker.js", { type: "module" });
  worker.addEventListener("message", ({ data: { number, value, problem, error } }) => {
    const { done, fail } = waiting.get(number);
    waiting.delete(number);
    if (value) done(value);
    else fail(problem ? new Problem(problem) : new Error(error));
  });
  worker.addEventListener("error", () => {
    for (const { fail } of waiting.values()) fail(new Problem("The classifier's script cannot be loaded. Is the folder complete?"));
    waiting.clear();
  });
}

// A service worker keeps what this page loads, and so the page works offline the next time.
async function keep() {
  const workers = navigator.serviceWorker;
  if (!workers) return; // neither https nor localhost
  const controlled = new Promise((done) => workers.addEventListener("controllerchange", done, { once: true }));
  try {
    await workers.register("offline.js");
    if (!workers.controller) await Promise.race([controlled, new Promise((done) => setTimeout(done, CONTROL_MS))]);
  } catch (error) {
    console.warn("This page will not work offline.", error);
  }
}

// The model, its classes, limits.
export async function describe() {
  if (!self.WebAssembly?.validate(VECTORS)) {
    throw new Problem("This browser has no WebAssembly with SIMD, which the classifier needs. Use a current Chrome, Edge, Firefox or Safari.");
  }
  await keep();
  start();
  const { arch, place, labels, independent, threshold } = await ask();
  return {
    models: [{ title: "Model", name: arch, runtime: `ONNX Runtime, ${place}` }],
    classes: labels,
    editable: false,
    note: "The list is fixed. It is a part of the file classifier.onnx, which clipdistill relabel changes.",
    independent,
    threshold,
    unknown: "unknown",
    examples: 0,
    takes: "JPEG, PNG, WebP, GIF, BMP or AVIF",
    limits: { bytes: MOST_BYTES },
  };
}

// An encoded image -> [{ranked: [[label, probability]], milliseconds}].  One runs at a time, and
// those that nobody waits for any more are left out.
export function classify(blob, teacher, signal) {
  const mine = last.then(() => {
    signal.throwIfAborted();
    return ask(blob);
  });
  last = mine.catch(() => {});
  return mine.then((answer) => [answer]);
}

export function sentence(error) {
  return error instanceof Problem ? error.message : `The classifier cannot answer (${error.message}).`;
}
