// Results, one large; the slider lays what it was made from over it. Python sets the value and hears which was chosen.
const under = q('.under'), part = q('.part'), compare = q('.compare');
let cells = [], at = 0, run = -1, chosen = null, comparing = false;

q('.empty').textContent = props.invitation || '';
function show(i) {
  at = Math.max(0, Math.min(i, cells.length - 1));
  const cell = cells[at];
  if (cell && cell.src) { if (big.getAttribute('src') !== cell.src) big.src = cell.src; }
  else if (!cells.some(c => c.src) && !stage.classList.contains('working')) big.removeAttribute('src');  // a stopped first run
  stage.classList.toggle('has', !!big.getAttribute('src'));
  q('.what').textContent = cell?.label || (cells.length > 1 ? `${at + 1} / ${cells.length}` : '');
  mark(at);
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
  lay(cells.length > 1 ? cells : [], 'Result', choose);
  const find = i => cells.findIndex(c => c.index === i);
  show(Math.max(0, find(chosen) < 0 ? find(v.newest) : find(chosen))); divide(); tellOf(v, OWN.tab);
}
part.addEventListener('input', divide);
compare.addEventListener('click', () => { comparing = !comparing; divide(); });
strip.addEventListener('keydown', e => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
  if (!by || !cells.length) return;
  e.preventDefault(); choose(at + by); strip.children[at]?.focus();
});
watch('value', draw); draw(); divide();
