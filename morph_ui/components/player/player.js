// One closure a page: what Python last sent, and where the scrubber stands. Python never hears of playing.
const scrub = q('.scrub'), play = q('.play');
let cells = [], at = 0, run = -1, timer = null, step = 1, touched = false, over = false, looped = false;

function show(i) {
  at = Math.max(0, Math.min(i, cells.length - 1));
  const cell = cells[at];
  if (cell && cell.src) { big.src = cell.src; big.classList.toggle('forming', cell.state === 'forming'); }
  stage.classList.toggle('has', !!big.src);
  scrub.value = at; mark(at);
  q('.where').textContent = cells.length ? `${at + 1} / ${cells.length}` : '';
}
function tick() {
  const n = cells.length, mode = q('.mode').value;
  if (mode !== 'back') step = 1; else if (at + step < 0 || at + step >= n) step = -step;
  let next = at + step;
  if (mode === 'loop' && next >= n) next = 0;
  if (mode === 'once' && next >= n) return pause();
  if (cells[next] && cells[next].state === 'done') show(next); else if (n) { step = -step; }
}
function pause() { clearInterval(timer); timer = null; play.textContent = '▶'; play.setAttribute('aria-label', 'Play'); }
function start() {
  pause();
  if (cells.length < 2) return;
  if (q('.mode').value === 'once' && at === cells.length - 1) show(0);
  timer = setInterval(tick, 1000 / +q('.fps').value);
  play.textContent = '❚❚'; play.setAttribute('aria-label', 'Pause');
}
function choose(i) { touched = true; pause(); show(i); trigger('choose', { index: i }); }

function draw() {
  const v = props.value && JSON.parse(props.value);
  if (!v) return;
  const before = cells;
  if (v.run !== run) {
    run = v.run; touched = over = false; pause();
    if (v.loop !== looped) { looped = v.loop; q('.mode').value = looped ? 'loop' : 'back'; }
  }
  const ends = v.done && !over;
  over = v.done; cells = v.cells; scrub.max = cells.length - 1;
  element.style.setProperty('--ratio', v.ratio);
  lay(cells, 'Frame', choose);
  if (timer) return;
  const changed = cells.map((c, i) => [c, i]).filter(([c, i]) => c.src && c.src !== before[i]?.src && i && i < cells.length - 1);
  if (!touched && changed.length) show(changed[changed.length >> 1][1]); else show(at);
  if (ends && !touched) { show(0); step = 1; start(); }
}
play.addEventListener('click', () => { touched = true; timer ? pause() : start(); });
scrub.addEventListener('input', () => { touched = true; pause(); show(+scrub.value); });
scrub.addEventListener('change', () => choose(+scrub.value));
q('.fps').addEventListener('change', () => timer && start());
watch('value', draw); draw();
