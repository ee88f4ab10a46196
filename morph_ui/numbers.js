// Boxes for numbers take them as people write them. While "7e" or "-" is typed on the way to "7e3" or "-1", the box holds
// no number: the page is not told, or it would put one there, and the rest be typed behind it. A comma is a point.
document.addEventListener("input", (event) => {
  if (event.target.type === "number" && event.target.validity.badInput) event.stopImmediatePropagation();
}, true);
document.addEventListener("beforeinput", (event) => {
  if (event.target.type !== "number" || !event.data?.includes(",")) return;
  event.preventDefault();
  document.execCommand("insertText", false, event.data.replaceAll(",", "."));
}, true);
