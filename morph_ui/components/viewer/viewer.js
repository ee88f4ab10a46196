// Results, one large; the slider lays what it was made from over it. Python sets the value and hears which was chosen.
const q = s => element.querySelector(s);
const stage = q('.stage'), big = q('.big'), under = q('.under'), part = q('.part'), strip = q('.strip'), compare = q('.compare');
let cells = [], at = 0, run = -1, chosen = null, comparing = false;

q('.empty').textContent = props.invitation || '';
function show(i) {
  at = Math.max(0, Math.min(i, cells.length - 1));
  const cell = cells[at];
  if (cell && cell.src) { if (big.getAttribute('src') !== cell.src) big.src = cell.src; }
  else if (!cells.some(c => c.src) && !stage.classList.contains('working')) big.removeAttribute('src');  // a stopped first run
  stage.classList.toggle('has', !!big.getAttribute('src'));
  q('.what').textContent = cell && cells.length > 1 ? cell.label || `${at + 1} / ${cells.length}` : (cell && cell.label) || '';
  [...strip.children].forEach((c, k) => c.setAttribute('aria-selected', k === at));
}
function choose(i) { show(i); chosen = cells[at].index; trigger('choose', { index: chosen }); }
function divide() {
  const can = !!under.getAttribute('src') && !!big.getAttribute('src');
  compare.disabled = !can;
  stage.classList.toggle('comparing', comparing && can);
  compare.setAttribute('aria-pressed', comparing && can);
  stage.style.setProperty('--part', `${part.value / 10}%`);
}
function draw() {
  const v = props.value && JSON.parse(props.value);
  if (!v) return;
  if (v.run !== run) { run = v.run; chosen = null; }
  cells = v.cells;
  element.style.setProperty('--ratio', v.ratio); element.style.setProperty('--columns', v.columns || 1);
  strip.classList.toggle('grid', !!v.columns); stage.classList.toggle('working', !!v.working);
  if (v.before && under.getAttribute('src') !== v.before) under.src = v.before;
  const many = cells.length > 1 ? cells : [];
  while (strip.children.length > many.length) strip.lastChild.remove();
  while (strip.children.length < many.length) {
    const b = Object.assign(document.createElement('button'), { type: 'button', className: 'cell', role: 'option' }), i = strip.children.length;
    b.append(document.createElement('img'), document.createElement('span')); b.addEventListener('click', () => choose(i));
    strip.append(b);
  }
  many.forEach((c, i) => {
    const b = strip.children[i], img = b.firstChild;
    b.dataset.state = c.state; b.setAttribute('aria-label', c.label || `Result ${i + 1}`);
    b.lastChild.textContent = c.label || '';
    if (c.src && img.getAttribute('src') !== c.src) img.src = c.src;
    img.style.visibility = c.src ? 'visible' : 'hidden';
  });
  const find = i => cells.findIndex(c => c.index === i);
  show(Math.max(0, find(chosen) < 0 ? find(v.newest) : find(chosen))); divide();
}
part.addEventListener('input', divide);
compare.addEventListener('click', () => { comparing = !comparing; divide(); });
strip.addEventListener('keydown', e => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (!by || !cells.length) return;
  e.preventDefault(); choose(at + by); strip.children[at]?.focus();
});
watch('value', draw);
draw(); divide();
