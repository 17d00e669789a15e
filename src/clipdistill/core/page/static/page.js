// The page of `clipdistill demo --web` and of `clipdistill export --target web`.
// Text from models and visitors reaches the page as textContent only.

import * as source from "./source.js"; // where the answers come from

const FRAME_MS = 100; // between two frames of the camera; a slow model makes it longer
const FRAME_SIDE = 1024; // pixels of a frame's longer side, as it is sent
const SPOKEN_MS = 3000; // between two sentences for screen readers
const RETRY_MS = 1000; // after the camera's frame met a problem

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((one) => [one.id, one]));
let about; // the models, their classes, limits
let threshold = 0; // null: each label has its own
let classes = []; // in use
let image = null; // the Blob that is shown and can be classified again
let stream = null; // the camera
let answers = []; // of the models, as they came
let turn = 0; // of the newest question; older ones are not shown any more
let running = new AbortController();

async function classify(blob, signal) {
  const limit = about.limits.bytes;
  if (blob.size > limit) {
    throw new source.Problem(`This image has ${(blob.size / 2 ** 20).toFixed(1)} MB; at most ${limit >> 20} MB are taken.`);
  }
  return source.classify(blob, at.both.checked, signal);
}

// Questions: the newest counts. It ends the one before it, so nothing queues.

async function ask(take, live = false) {
  const mine = ++turn;
  running.abort();
  running = new AbortController();
  at.busy.hidden = live && answers.length > 0;
  at.answer.ariaBusy = "true";
  const start = performance.now();
  try {
    const blob = await take();
    const found = await classify(blob, running.signal);
    if (mine !== turn) return true;
    if (live) image = blob;
    answers = found;
    render();
    at.timing.textContent = `Answered in ${Math.round(performance.now() - start)} ms in all`;
    return true;
  } catch (error) {
    if (mine === turn) refuse(source.sentence(error));
    return mine !== turn;
  } finally {
    if (mine === turn) {
      at.busy.hidden = true;
      at.answer.ariaBusy = "false";
    }
  }
}

function again() {
  if (image && !stream) ask(async () => image);
}

function show(blob) {
  stopCamera();
  forget();
  image = blob;
  preview(blob);
  ask(async () => blob);
}

function preview(blob) {
  URL.revokeObjectURL(at.image.src);
  at.image.src = blob ? URL.createObjectURL(blob) : "";
  if (!blob) at.image.removeAttribute("src");
  at.image.hidden = !blob;
  at.empty.hidden = Boolean(blob);
  at.clear.hidden = !blob;
  at.stage.classList.toggle("filled", Boolean(blob));
}

// Nothing is under way any more.
function end() {
  turn++;
  running.abort();
  at.busy.hidden = true;
  at.answer.ariaBusy = "false";
}

function forget() {
  end();
  image = null;
  answers = [];
  render();
  wanted = spoken = at.heard.textContent = ""; // the same answer about another image is news
}

// The answer

const percent = (share) => `${(100 * share).toFixed(1)}%`;
const milliseconds = (value) => `${value.toFixed(value < 100 ? 1 : 0)} ms`;
// A label's threshold.  Of classes of which an image has one, only the student has a threshold: it
// was fitted to its probabilities, and concerns the first label.
function least(index, place) {
  if (about.independent) return index === 0 && threshold !== null ? threshold : answers[index].ranked[place][2];
  return index === 0 && place === 0 ? threshold : place === 0 ? 0 : Infinity;
}

const has = (index) => answers[index].ranked.filter(([, share], place) => share >= least(index, place)).map(([label]) => label);
const isUnknown = (index) => has(index).length === 0;
const chosen = (index) => has(index).join(", ") || about.unknown;
const alike = () => has(0).length === has(1).length && has(0).every((label) => has(1).includes(label));

function agreement() {
  at.outcome.classList.remove("same");
  if (answers.length < 2) return "";
  const same = about.independent ? alike() : answers[0].ranked[0][0] === answers[1].ranked[0][0];
  at.outcome.classList.toggle("same", same);
  if (isUnknown(0) && !about.independent) return `The student’s answer is unknown; its likeliest class is ${same ? "" : "not "}the teacher’s.`;
  return same ? "Student and teacher agree." : "Student and teacher disagree.";
}

function render() {
  at.problem.hidden = true;
  at.hint.hidden = answers.length > 0;
  at.cards.hidden = at.outcome.hidden = answers.length === 0;
  while (at.cards.children.length > answers.length) at.cards.lastChild.remove();
  answers.forEach((one, index) => fill(at.cards.children[index] ?? card(index), one, index));
  const agree = agreement();
  at.agreement.textContent = agree;
  say(answers.map((one, index) => `${about.models[index].title}: ${chosen(index)}.`).concat(agree).join(" ").trim());
}

function refuse(text) {
  answers = [];
  render();
  at.hint.hidden = true;
  at.problem.hidden = false;
  at.problem.textContent = text;
  say(text);
}

function add(parent, tag, className = "", text = "") {
  const one = document.createElement(tag);
  one.className = className;
  one.textContent = text;
  parent.append(one);
  return one;
}

function card(index) {
  const { title, name, runtime } = about.models[index];
  const one = add(at.cards, "section", "card");
  one.ariaLabel = title;
  const line = add(one, "div", "line");
  add(line, "h2", "", title);
  add(line, "span", "took");
  const best = add(one, "p", "best");
  add(best, "strong").dir = "auto";
  add(best, "span");
  add(one, "ol", "bars");
  add(one, "p", "model", `${name} · ${runtime}`);
  return one;
}

function fill(one, { ranked, milliseconds: took }, index) {
  const unknown = isUnknown(index);
  one.classList.toggle("unsure", unknown);
  one.querySelector(".took").textContent = milliseconds(took);
  one.querySelector(".best strong").textContent = chosen(index);
  const several = has(index).length > 1; // the bars have their probabilities
  one.querySelector(".best span").textContent = unknown ? "below the threshold" : several ? "" : percent(ranked[0][1]);
  const bars = one.querySelector(".bars");
  while (bars.children.length > ranked.length) bars.lastChild.remove();
  ranked.forEach(([label, share], place) => {
    const row = bars.children[place] ?? bar(bars);
    row.querySelector(".name").textContent = label;
    row.querySelector(".share").textContent = percent(share);
    row.querySelector(".fill").style.width = percent(share);
    const tick = row.querySelector(".tick");
    const limit = least(index, place);
    tick.hidden = !(limit > 0 && limit <= 1);
    tick.style.left = percent(limit);
  });
}

function bar(bars) {
  const row = add(bars, "li");
  add(row, "span", "name").dir = "auto";
  add(row, "span", "share");
  const line = add(row, "span", "bar");
  line.ariaHidden = "true";
  add(line, "span", "fill");
  add(line, "span", "tick");
  return row;
}

// Screen readers hear an answer when it changes, and not more often than SPOKEN_MS: a camera changes it often.

let wanted = "";
let spoken = "";
let lastSpoken = -SPOKEN_MS;
let timer;

function say(text) {
  wanted = text;
  if (timer || wanted === spoken) return;
  timer = setTimeout(speak, Math.max(300, lastSpoken + SPOKEN_MS - performance.now()));
}

function speak() {
  timer = undefined;
  if (wanted === spoken) return;
  lastSpoken = performance.now();
  spoken = at.heard.textContent = wanted;
}

// The camera

async function startCamera(deviceId) {
  if (!navigator.mediaDevices) {
    refuse("Browsers give the camera to localhost and https only. Open this page as localhost.");
    return;
  }
  const video = { width: { ideal: 1280 }, ...(deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "environment" }) };
  stopCamera();
  forget();
  const mine = turn;
  let opened;
  try {
    opened = await navigator.mediaDevices.getUserMedia({ video });
  } catch (error) {
    refuse(
      error.name === "NotAllowedError"
        ? "The browser did not allow the camera. Allow it in the address bar, then try again."
        : "No camera could be opened. Is one connected, and is no other program using it?",
    );
    return;
  }
  if (mine !== turn) return opened.getTracks().forEach((track) => track.stop()); // something newer was chosen
  stream = opened;
  stream.getVideoTracks()[0].addEventListener("ended", stopCamera);
  at.video.srcObject = stream;
  preview(null);
  at.empty.hidden = true;
  at.stage.classList.add("filled");
  at.video.hidden = at.live.hidden = false;
  at.camera.textContent = "Stop the camera";
  at.camera.classList.add("on");
  await at.video.play().catch(() => {}); // it was stopped before it played
  listCameras();
  watch(opened);
}

// One frame is on its way at a time; those between are never taken, so the answer is of the newest.
async function watch(mine) {
  while (stream === mine) {
    const start = performance.now();
    const good = document.hidden || (await ask(frame, true));
    const pause = good ? FRAME_MS - (performance.now() - start) : RETRY_MS;
    await new Promise((done) => setTimeout(done, Math.max(0, pause)));
  }
}

function frame() {
  const { videoWidth: width, videoHeight: height } = at.video;
  const scale = Math.min(1, FRAME_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.getContext("2d").drawImage(at.video, 0, 0, canvas.width, canvas.height);
  return new Promise((done, fail) => {
    canvas.toBlob((blob) => (blob ? done(blob) : fail(new source.Problem("The camera gives no image."))), "image/jpeg", 0.92);
  });
}

// The last frame that was answered stays, with its answer.
function stopCamera() {
  if (!stream) return;
  end();
  stream.getTracks().forEach((track) => track.stop());
  stream = at.video.srcObject = null;
  at.video.hidden = at.live.hidden = at.devices.hidden = true;
  at.camera.textContent = "Use the camera";
  at.camera.classList.remove("on");
  preview(image);
}

async function listCameras() {
  const found = (await navigator.mediaDevices.enumerateDevices()).filter((one) => one.kind === "videoinput");
  const current = stream?.getVideoTracks()[0].getSettings().deviceId;
  at.device.replaceChildren();
  found.forEach((one, index) => {
    const option = add(at.device, "option", "", one.label || `Camera ${index + 1}`);
    option.value = one.deviceId;
    option.selected = one.deviceId === current;
  });
  at.devices.hidden = !stream || found.length < 2;
}

// The classes

const count = (number) => `${number} ${number === 1 ? "class" : "classes"}`;

function note(text, problem = false) {
  at["class-note"].textContent = text;
  at["class-note"].className = problem ? "problem" : "note";
  at.classes.ariaInvalid = String(problem);
}

async function use(names) {
  note("Working…");
  try {
    classes = await source.useClasses(names);
    at.count.textContent = count(classes.length);
    note(`${count(classes.length)} in use. New classes work at once, without training.`);
    again();
  } catch (error) {
    note(source.sentence(error), true);
  }
  say(at["class-note"].textContent);
}

const write = () => use(at.classes.value.split("\n"));

function reset() {
  at.classes.value = about.classes.join("\n");
  use(about.classes);
}

// Start

function setThreshold(value) {
  threshold = value;
  at.least.textContent = value === null ? "each label’s own" : value > 0 ? percent(value) : "off";
  if (answers.length) render();
}

function describe() {
  const { models, limits } = about;
  at.about.textContent = models.map((one) => one.name).join(" beside ");
  classes = about.classes;
  at.count.textContent = count(classes.length);
  at.threshold.value = about.threshold ?? 0.5;
  if (about.independent) at["threshold-note"].textContent = "An image has every label of at least this probability, and with none it is “unknown”.";
  setThreshold(about.threshold);
  at.compare.hidden = models.length < 2;
  at.classes.hidden = at.edit.hidden = !about.editable;
  at.fixed.hidden = about.editable;
  if (about.editable) {
    at.classes.value = classes.join("\n");
    note(`One class per line, at most ${limits.classes}. New classes work at once, without training.`);
  } else {
    classes.forEach((label) => (add(at.fixed, "li", "", label).dir = "auto"));
    if (about.note) note(about.note);
  }
  if (about.takes) at.takes.textContent = about.takes;
  at.samples.hidden = about.examples === 0;
  for (let number = 1; number <= about.examples; number++) {
    const button = add(add(at.examples, "li"), "button");
    button.type = "button";
    button.ariaLabel = `Example ${number}`;
    const thumbnail = add(button, "img");
    thumbnail.alt = "";
    thumbnail.src = `examples/${number}`;
    button.addEventListener("click", () => choose(number));
  }
}

async function choose(number) {
  stopCamera();
  forget();
  const mine = turn;
  at.busy.hidden = false;
  try {
    const blob = await source.example(number);
    if (mine === turn) show(blob);
  } catch (error) {
    if (mine === turn) refuse(source.sentence(error));
  }
}

function take(data) {
  const file = [...(data?.files ?? [])][0];
  if (file) show(file);
  return Boolean(file);
}

function listen() {
  at.file.addEventListener("change", () => {
    take(at.file);
    at.file.value = ""; // so that the same file can be chosen again
  });
  at.image.addEventListener("error", () => {
    at.image.hidden = true; // no browser shows every kind of image that is read here
  });
  at.camera.addEventListener("click", () => (stream ? stopCamera() : startCamera()));
  at.device.addEventListener("change", () => startCamera(at.device.value));
  at.clear.addEventListener("click", () => {
    forget();
    preview(null);
    at.file.focus();
  });
  at.threshold.addEventListener("input", () => setThreshold(Number(at.threshold.value)));
  at.both.addEventListener("change", again);
  at.use.addEventListener("click", write);
  at.reset.addEventListener("click", reset);
  at.classes.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write();
  });
  document.addEventListener("paste", (event) => {
    if (take(event.clipboardData)) event.preventDefault();
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (event.target === at.classes && !event.dataTransfer.types.includes("Files")) return; // text
      event.preventDefault(); // else the browser would leave the page for the file
      at.stage.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    if (event.defaultPrevented && !take(event.dataTransfer)) refuse("Only a file can be dropped here.");
  });
}

try {
  about = await source.describe();
  describe();
  listen();
  at.hint.textContent = "The answer appears here.";
  if (at.file.files.length) at.file.dispatchEvent(new Event("change")); // chosen while this was loading
} catch (error) {
  refuse(source.sentence(error));
}
