// Boxes for numbers take them as people write them: a comma is a point. The page is never told half a number: "7e" on the
// way to "7e3" is none, and "1,000" may be two. Whoever leaves one there, or presses Make, is told so.
{
  const THOUSANDS = /^[+-]?[1-9]\d{0,2}\.\d{3}$/, commas = new WeakSet(), groups = new WeakMap(), twofold = new WeakMap(), odd = new WeakMap();
  const number = event => event.target.type === "number" && event.target;
  const name = box => (box.ariaLabel || box.closest("label")?.innerText || "this").replace("number input for ", "").trim();
  function trouble(box) {
    if (odd.has(box)) return `${name(box)} must be a number, got ${odd.get(box).text}.`;
    if (box.validity.badInput) return `${name(box)} must be a number, got one that is not finished.`;
    if (!box.value || twofold.get(box) !== box.value) return "";
    return `${name(box)} must be one number, got what may be two; write a point before fractions, and nothing between thousands.`;
  }
  function say(box, text) {
    const line = box.closest("[role=tabpanel]")?.querySelector(".status-line .status"), words = line?.querySelector("span");
    if (!words || (!text && line.dataset.box !== box.ariaLabel)) return;
    line.className = `status ${text ? "problem" : "note"}`; line.dataset.box = text && box.ariaLabel; words.textContent = text;
  }
  document.addEventListener("input", event => {
    const box = number(event);
    if (!box) return;
    if (!box.value && !box.validity.badInput) { commas.delete(box); odd.delete(box); }
    if (!box.value.startsWith(odd.get(box)?.before || "")) odd.delete(box);
    if (!box.value.startsWith(groups.get(box) || "?")) groups.delete(box);
    twofold.set(box, groups.has(box) || (THOUSANDS.test(box.value) && (commas.has(box) || box.step === "1")) ? box.value : null);
    if (trouble(box)) event.stopImmediatePropagation(); else say(box, "");
  }, true);
  document.addEventListener("beforeinput", event => {
    const box = number(event), signs = event.data?.match(/[.,]/g) || [];
    if (box && /[^-+\d.,eE\s−]/.test(event.data || "")) {  // the browser drops it: 0x10 would be 10
      event.preventDefault(); odd.set(box, { before: box.value, text: (odd.get(box)?.text || box.value) + event.data.slice(0, 40) });
      return say(box, trouble(box));
    }
    if (!box || !signs.length) return;
    event.preventDefault();
    if (signs.length > 1) return say(box, `${name(box)} must be one number, got ${event.data.slice(0, 40)}; write nothing between thousands.`);
    const before = box.value;
    if (signs[0] === ",") commas.add(box);
    document.execCommand("insertText", false, event.data.replace(",", "."));
    if (box.value !== before || !/[.]/.test(before)) return;
    groups.set(box, before); twofold.set(box, before);  // the browser takes no second one: 1,000,000
  }, true);
  document.addEventListener("blur", event => {
    const box = number(event), text = box && trouble(box);
    if (text) { event.stopImmediatePropagation(); say(box, text); }  // (a slider's box would be set to the half of it)
  }, true);
  document.addEventListener("click", event => {
    const make = event.target.closest?.("button[id$='-make']"), panel = make?.closest("[role=tabpanel]");
    const box = panel && [...panel.querySelectorAll("input[type=number]")].find(trouble);
    if (!box) return;
    event.preventDefault(); event.stopImmediatePropagation();
    say(box, trouble(box)); box.focus(); box.select();
  }, true);
}
