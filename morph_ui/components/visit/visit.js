// A page that is loaded again finds what the one before it was about. Where that has been lost, it says so.
const word = element.querySelector('.word'), say = text => { word.firstChild.textContent = text; word.hidden = !text; };
const tabs = () => [...document.querySelectorAll('[role=tab]')], named = b => b.textContent.trim().toLowerCase();
const open = () => named(tabs().find(b => b.getAttribute('aria-selected') === 'true') || { textContent: '' });
const running = () => !!document.querySelector('button[id$="-stop"]');
// Only while the page is away: a copy of this browser tab has no token.
window.addEventListener('pagehide', () => {
  try { sessionStorage.setItem('chrysalis-left', JSON.stringify({ token: window.chrysalisVisit?.token, job: running(), tab: open() })); } catch { /* no storage here */ }
});
window.addEventListener('pageshow', e => { if (e.persisted) try { sessionStorage.removeItem('chrysalis-left'); } catch { /* no storage here */ } });
word.querySelector('button').addEventListener('click', () => say(''));
watch('value', () => {
  const v = props.value && JSON.parse(props.value), left = window.chrysalisVisit?.left || {};
  if (!v) return;
  if (TABS.includes(left.tab) && left.tab !== open()) tabs().find(b => named(b) === left.tab)?.click();
  for (const tab of TABS.filter(t => v.again.includes(t))) trigger(tab);
  if (left.job && !v.again.length) say('What was being made is lost: the page was away for too long, or the studio has been started anew.');
});
document.documentElement.classList.toggle('plain-http', !window.isSecureContext);
