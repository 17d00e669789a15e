// The metadata of an ONNX file, which is a protobuf message: ModelProto.metadata_props, field 14.

const METADATA = 14, KEY = 1, VALUE = 2;
const LENGTH_DELIMITED = 2;
const FIXED = { 1: 8, 5: 4 }; // wire type -> bytes

// Uint8Array of a message -> [number, Uint8Array] of its length-delimited fields.
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new RangeError("the file is truncated");
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag % 8;
    const size = wire === LENGTH_DELIMITED ? varint() : wire === 0 ? (varint(), 0) : FIXED[wire];
    if (size === undefined || at + size > bytes.length) throw new RangeError("the file is truncated");
    if (wire === LENGTH_DELIMITED) yield [Math.floor(tag / 8), bytes.subarray(at, at + size)];
    at += size;
  }
}

// Uint8Array of an ONNX file -> Map of its metadata.
export function metadata(bytes) {
  const text = new TextDecoder();
  const found = new Map();
  for (const [number, entry] of fields(bytes)) {
    if (number !== METADATA) continue;
    const pair = new Map([...fields(entry)].map(([part, value]) => [part, text.decode(value)]));
    found.set(pair.get(KEY), pair.get(VALUE));
  }
  return found;
}
