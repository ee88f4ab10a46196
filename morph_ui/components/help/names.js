// What Gradio's own widgets lack: tooltips with the method's term, names of buttons that show a sign, and one voice for
// the line above the results (its markup is made anew with every step, which no screen reader follows).
const NAMES = [['.dice', 'Another seed'], ['.swap', 'Swap both pictures']];
const voice = element.querySelector('.voice');
function name() {
  for (const [s, text] of NAMES) for (const node of document.querySelectorAll(s)) if (node.ariaLabel !== text) node.title = node.ariaLabel = text;
  for (const [id, text] of Object.entries(OWN.terms)) {
    const node = document.getElementById(id);
    if (!node || node.title === text) continue;
    node.title = text;
    for (const field of node.querySelectorAll('input, textarea')) field.ariaDescription = text;
  }
}
window.addEventListener('chrysalis-said', e => { voice.textContent = e.detail; });
let said = '', part = 0;
function follow() {
  const line = [...document.querySelectorAll('.status-line')].find(seen), bar = line?.querySelector('.bar i');
  const text = line?.querySelector('.status span')?.textContent || '', done = bar ? Math.floor(parseFloat(bar.style.width) / 25) : -1;
  if (bar ? done === part : text === said) return;  // of a run: its quarters
  part = done; said = text; voice.textContent = text;
}
let soon = null;
new MutationObserver(() => { soon ??= setTimeout(() => { soon = null; name(); follow(); }, 400); }).observe(document.body, { childList: true, subtree: true, characterData: true });
name();
