// A zip of files as they are (method "store"; APPNOTE 4.3): [[name, Blob or text]] → Blob. Up to 4 GB, 65535 files.
const TABLE = Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ n >>> 1 : n >>> 1; return n >>> 0; });
function crc(bytes) { let c = -1; for (const b of bytes) c = TABLE[(c ^ b) & 255] ^ c >>> 8; return ~c >>> 0; }
function block(size, ...fields) {
  const view = new DataView(new ArrayBuffer(size));
  let at = 0;
  for (const [bytes, value] of fields) { bytes === 4 ? view.setUint32(at, value, true) : view.setUint16(at, value, true); at += bytes; }
  return new Uint8Array(view.buffer);
}
async function zip(files, when = new Date()) {
  const parts = [], index = [], said = new TextEncoder();
  const time = when.getHours() << 11 | when.getMinutes() << 5 | when.getSeconds() >> 1, date = when.getFullYear() - 1980 << 9 | when.getMonth() + 1 << 5 | when.getDate();
  let at = 0;
  for (const [name, what] of files) {
    const blob = what instanceof Blob ? what : new Blob([what]), path = said.encode(name), bytes = new Uint8Array(await blob.arrayBuffer());
    const own = [[2, 20], [2, 0x800], [2, 0], [2, time], [2, date], [4, crc(bytes)], [4, bytes.length], [4, bytes.length], [2, path.length], [2, 0]];
    parts.push(block(30, [4, 0x04034b50], ...own), path, blob);
    index.push(block(46, [4, 0x02014b50], [2, 20], ...own, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), path);
    at += 30 + path.length + bytes.length;
  }
  const size = index.reduce((sum, part) => sum + part.length, 0);
  const end = block(22, [4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, at], [2, 0]);
  return new Blob([...parts, ...index, end], { type: 'application/zip' });
}
