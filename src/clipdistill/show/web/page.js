// For screen readers: what gradio's pictures lack in names, and the answer, said when it changes and
// at most every three seconds, since a camera changes it several times a second.
(() => {
  const PAUSE = 3000;
  const said = new Map(); // where it stands -> what was said last
  let region, timer, last = -PAUSE;

  const news = () =>
    [...document.querySelectorAll("#answer [data-say], #class-note [data-say]")]
      .map((one) => [one.closest("#answer, #class-note").id, one.dataset.say])
      .filter(([place, text]) => said.get(place) !== text);

  const speak = () => {
    timer = undefined;
    const fresh = news();
    if (!fresh.length) return;
    fresh.forEach(([place, text]) => said.set(place, text));
    last = performance.now();
    region.textContent = fresh.map(([, text]) => text).join(" ");
  };

  const nameButtons = () => {
    document.querySelectorAll("#examples button:has(img)").forEach((button, index) => {
      if (!button.ariaLabel) button.ariaLabel = `Example ${index + 1}`;
    });
    // "capture photo", though it says Record or Stop.
    document.querySelector('#camera button[aria-label="capture photo"]')?.removeAttribute("aria-label");
  };

  const changed = () => {
    nameButtons();
    if (timer === undefined && news().length) {
      timer = setTimeout(speak, Math.max(300, last + PAUSE - performance.now()));
    }
  };

  const start = () => {
    if (document.getElementById("heard")) return;
    region = document.createElement("div");
    region.id = "heard";
    region.className = "heard";
    region.setAttribute("role", "status");
    region.setAttribute("aria-live", "polite");
    document.body.append(region);
    new MutationObserver(changed).observe(document.body, { childList: true, subtree: true });
  };

  // gradio adds this script to the page when that has long been read.
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
