// Jobs belong to a visit, and a reload is another one: ask before, and say so afterwards.
const word = element.querySelector('.word'), ENDED = 'chrysalis-ended';
const running = () => !!document.querySelector('button[id$="-stop"]');
window.addEventListener('beforeunload', e => { if (running()) { e.preventDefault(); e.returnValue = ''; } });
// (Trusted: by the hand, not by a script of the page.)
let touched = false;
document.addEventListener('change', e => { touched ||= e.isTrusted && e.target.type !== 'file'; }, true);
window.addEventListener('pagehide', () => { try { if (running() || touched) sessionStorage.setItem(ENDED, running() ? 'job' : 'settings'); } catch { /* no storage here */ } });
word.querySelector('button').addEventListener('click', () => { word.hidden = true; });
try {
  const what = sessionStorage.getItem(ENDED);
  sessionStorage.removeItem(ENDED);
  if (what) {
    word.firstChild.textContent = `${what === 'job' ? 'The reload has ended what was being made. ' : ''}Your pictures are kept; words and settings are as at first.`;
    word.hidden = false;
  }
} catch { /* no storage here */ }
document.documentElement.classList.toggle('plain-http', !window.isSecureContext);
