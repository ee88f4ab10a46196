// Pictures that are dropped or pasted: files, or one that is seen on this page, under its name (`history/anywhere.js`). `bring` sends one and has it opened (`opened.py`).
const pasted = e => [...(e.clipboardData ? e.clipboardData.files : [])].filter(f => f.type.startsWith('image/') || !f.type);
const PICTURES = 'image/*,.heic,.heif,.avif,.tif,.tiff';
const ours = at => at.origin === location.origin || /^(data|blob):/.test(at.protocol);
async function dropped(data) {
  const own = data.getData('application/x-chrysalis');
  if (own) {
    const { src, name } = JSON.parse(own), at = new URL(src, location.href);
    if (!ours(at)) return [];
    const blob = await (await fetch(at)).blob();
    return [new File([blob], name, { type: blob.type })];
  }
  if (data.files.length) return [...data.files];
  const html = data.getData('text/html'), src = html && new DOMParser().parseFromString(html, 'text/html').querySelector('img')?.getAttribute('src');
  const url = src || data.getData('text/uri-list').split('\n')[0];
  if (!url) return [];
  const at = new URL(url, location.href);
  if (!ours(at)) return [];
  const blob = await (await fetch(at)).blob();
  return blob.type.startsWith('image/') ? [new File([blob], at.protocol === 'data:' ? 'picture' : decodeURIComponent(at.pathname.split('/').pop()), { type: blob.type })] : [];
}
const NO_FILE = 'That was no file: save the picture first, then drop it.';
// {path, url, note}; throws what is to be said.
async function bring(file) {
  let sent = null;
  try { sent = await upload(file); } catch (e) { throw new Error(`${file.name} could not be sent: ${e.message || e}`); }
  const got = await server.opened({ path: sent.path }).catch(e => ({ error: `${file.name} could not be opened: ${e.message || e}` }));
  if (!got || got.error) throw new Error(got?.error || `${file.name} could not be opened: the studio does not answer`);
  return got;
}
// What became of an upload: {path, url, note}, or {error} where the studio says that it is gone; {} where it does not answer.
async function still(path) {
  for (let wait = 500; wait < 9000; wait *= 2) {
    const got = await server.opened({ path }).catch(() => null);  // Gradio gives nothing where the network fails
    if (got) return got;
    await new Promise(done => setTimeout(done, wait));
  }
  return {};
}
// A file let go beside a box would open in the place of the studio.
for (const kind of ['dragover', 'drop']) document.addEventListener(kind, e => { if ([...e.dataTransfer.types].includes('Files')) e.preventDefault(); });
