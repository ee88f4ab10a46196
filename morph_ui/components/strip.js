// What player and viewer have alike: the strip below the large picture, a button for each cell that Python sent.
const q = s => element.querySelector(s), strip = q('.strip'), stage = q('.stage'), big = q('.big');
function lay(cells, what, choose) {
  while (strip.children.length > cells.length) strip.lastChild.remove();
  while (strip.children.length < cells.length) {
    const b = Object.assign(document.createElement('button'), { type: 'button', className: 'cell', role: 'option' }), i = strip.children.length;
    b.append(Object.assign(document.createElement('img'), { draggable: true }), document.createElement('span')); b.addEventListener('click', () => choose(i));
    strip.append(b);
  }
  cells.forEach((c, i) => {
    const b = strip.children[i], img = b.firstChild;
    b.dataset.state = c.state; b.setAttribute('aria-label', c.label || `${what} ${i + 1}`);
    b.lastChild.textContent = c.label;
    if (c.src && img.getAttribute('src') !== c.src) img.src = c.src;
    img.style.visibility = c.src ? 'visible' : 'hidden'; img.alt = '';  // the button has a name
  });
}
const mark = at => [...strip.children].forEach((c, k) => c.setAttribute('aria-selected', k === at));

big.draggable = true;
// What is shown large can go anywhere: a menu says where (`history/anywhere.js`).
const onward = Object.assign(document.createElement('button'), { type: 'button', className: 'send', textContent: 'Send to …', title: 'Use this picture elsewhere, or save it' });
onward.setAttribute('aria-haspopup', 'menu');
onward.addEventListener('click', () => window.chrysalis?.menu(onward, { src: big.currentSrc || big.src }));
q('.deck').append(onward);
// A finished run, told once to what keeps it (`history`).
let kept = '';
function tellOf(v, tab) {
  onward.hidden = !big.getAttribute('src');
  if (!v.made || v.made.id === kept) return;
  kept = v.made.id;
  const detail = { tab, run: v.run, made: v.made, cells: v.cells, film: v.film || [], ratio: v.ratio, before: v.before, rest: !!v.rest };
  (window.chrysalisMade ??= []).push(detail);
  window.dispatchEvent(new CustomEvent('chrysalis-made', { detail }));
}
onward.hidden = true;
