// Answers of the server of `clipdistill demo --web`.

export class Problem extends Error {} // a sentence for the visitor

const IMAGE = "application/octet-stream";
const JSON_TYPE = "application/json";

let classes = []; // in use
let key = ""; // the server's name for them

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Problem(`The server answered ${path} with status ${response.status}.`);
  return response;
}

async function post(path, type, body, signal) {
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": type }, body, signal });
  const value = await response.json();
  if (response.status === 409) return null; // the class list is forgotten
  if (!response.ok || value.problem) throw new Problem(value.problem ?? value.message);
  return value;
}

const sendClasses = (names, signal) => post("classes", JSON_TYPE, JSON.stringify({ classes: names }), signal);

// The models, their classes, limits.
export async function describe() {
  const about = await (await get("about")).json();
  classes = about.classes;
  return about;
}

export const example = async (number) => (await get(`examples/${number}`)).blob();

// Names -> the names as they are used.
export async function useClasses(names) {
  ({ key, classes } = await sendClasses(names));
  return classes;
}

// An encoded image -> [{ranked: [[label, probability]], milliseconds}], the student's first.
export async function classify(blob, teacher, signal) {
  const send = () => post(`predict?classes=${key}&teacher=${Number(teacher)}`, IMAGE, blob, signal);
  let found = await send();
  if (!found) {
    ({ key } = await sendClasses(classes, signal));
    found = await send();
  }
  return found.answers;
}

export function sentence(error) {
  if (error instanceof Problem) return error.message;
  return "The server does not answer. Is clipdistill demo still running?";
}
