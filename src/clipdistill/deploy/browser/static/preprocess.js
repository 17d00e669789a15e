// From an image's pixels to a model's input, as clipdistill/images/preprocess.py does it, bit for bit.
// The resampling is Pillow's (src/libImaging/Resample.c): antialiased, 8-bit, in fixed point.

const PRECISION = 22; // bits after the point of a weight
const LONGEST_RATIO = 64; // longer strips are cropped to their middle

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, bicubic],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
}; // name -> [support, weight of a distance]

function bicubic(distance) {
  const a = -0.5, x = Math.abs(distance);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// Python's round: halves to the even neighbour.
function roundEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

// For each of the outputs first ... first + count: [first input, its weights].
function weights(name, from, to, first, count) {
  const [reach, weigh] = FILTERS[name] ?? [0, null];
  const scale = from / to, stretch = Math.max(1, scale), support = reach * stretch;
  return Array.from({ length: count }, (_, index) => {
    const center = (first + index + 0.5) * scale;
    if (!weigh) return [Math.min(from - 1, Math.floor(center)), [2 ** PRECISION]]; // nearest
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(from, Math.trunc(center + support + 0.5));
    const row = Array.from({ length: end - start }, (_, k) => weigh((k + start - center + 0.5) / stretch));
    const sum = row.reduce((total, one) => total + one, 0) || 1;
    return [start, row.map((one) => fixed((one / sum) * 2 ** PRECISION))];
  });
}

const fixed = (value) => Math.trunc(value + (value < 0 ? -0.5 : 0.5));

// One pass: outer x inner samples of 3 channels; steps are distances in the arrays.
function pass(source, target, table, outer, from, to) {
  const half = 2 ** (PRECISION - 1);
  for (let line = 0; line < outer; line++) {
    table.forEach(([start, row], index) => {
      for (let channel = 0; channel < 3; channel++) {
        let sum = half;
        let at = line * from.line + start * from.sample + channel;
        for (let k = 0; k < row.length; k++, at += from.sample) sum += source[at] * row[k];
        target[line * to.line + index * to.sample + channel] = sum >> PRECISION; // clamped: Uint8ClampedArray
      }
    });
  }
}

// RGBA {data, width, height} -> RGB of the window {left, top, width, height} of the image resized to [across, down].
function resize(image, name, [across, down], window) {
  const columns = weights(name, image.width, across, window.left, window.width);
  const rows = weights(name, image.height, down, window.top, window.height);
  const first = Math.min(...rows.map(([start]) => start));
  const last = Math.max(...rows.map(([start, row]) => start + row.length));
  const between = new Uint8ClampedArray(window.width * (last - first) * 3);
  const line = window.width * 3;
  pass(image.data.subarray(first * image.width * 4), between, columns, last - first, { line: image.width * 4, sample: 4 }, { line, sample: 3 });
  const result = new Uint8ClampedArray(window.width * window.height * 3);
  const down1 = rows.map(([start, row]) => [start - first, row]);
  pass(between, result, down1, window.width, { line: 3, sample: line }, { line: 3, sample: line });
  return result;
}

function withoutEnds(image) {
  const { width, height, data } = image;
  const most = LONGEST_RATIO * Math.min(width, height);
  if (Math.max(width, height) <= most) return image;
  const left = Math.max(0, Math.floor((width - most) / 2)), top = Math.max(0, Math.floor((height - most) / 2));
  const cropped = { width: Math.min(width, most), height: Math.min(height, most) };
  cropped.data = new Uint8ClampedArray(cropped.width * cropped.height * 4);
  for (let row = 0; row < cropped.height; row++) {
    const start = ((top + row) * width + left) * 4;
    cropped.data.set(data.subarray(start, start + cropped.width * 4), row * cropped.width * 4);
  }
  return cropped;
}

// Resize the shortest side, then crop the centre.
function cover(image, { size, interpolation }) {
  const kept = withoutEnds(image);
  const { width, height } = kept;
  const scaled = Math.max(size, Math.trunc((size * Math.max(width, height)) / Math.min(width, height)));
  const target = width <= height ? [size, scaled] : [scaled, size];
  const [left, top] = target.map((side) => roundEven((side - size) / 2));
  return resize(kept, interpolation, target, { left, top, width: size, height: size });
}

// Resize the longest side and pad around the centre.
function fit(image, { size, interpolation, fill_color: fill }) {
  const ratio = Math.max(image.width, image.height) / size;
  const target = [image.width, image.height].map((side) => Math.max(1, roundEven(side / ratio)));
  const [width, height] = target;
  const [left, top] = target.map((side) => Math.floor((size - side) / 2));
  const inside = resize(image, interpolation, target, { left: 0, top: 0, width, height });
  const result = new Uint8ClampedArray(size * size * 3).fill(fill);
  for (let row = 0; row < height; row++) {
    result.set(inside.subarray(row * width * 3, (row + 1) * width * 3), ((top + row) * size + left) * 3);
  }
  return result;
}

// Of a JPEG that is far larger than a model's input, Pillow's decoder gives 1/2, 1/4 or 1/8 of its size: 2, 4 or 8, else 1.
export function fractionOf(width, height, { size }) {
  const most = Math.min(Math.floor(width / (2 * size)), Math.floor(height / (2 * size)));
  return [8, 4, 2].find((one) => one <= most) ?? 1;
}

// RGBA {data, width, height} -> the same at 1 / side of its size, by averages of squares.  A JPEG's decoder averages
// brightness and colour apart, before the colours are upsampled, and so some pixels differ by a few levels from its.
export function averaged(image, side) {
  const { width, height, data } = image;
  const reduced = { width: Math.ceil(width / side), height: Math.ceil(height / side) };
  reduced.data = new Uint8ClampedArray(reduced.width * reduced.height * 4);
  for (let row = 0; row < reduced.height; row++) {
    for (let column = 0; column < reduced.width; column++) {
      const bottom = Math.min(height, (row + 1) * side), right = Math.min(width, (column + 1) * side);
      const count = (bottom - row * side) * (right - column * side);
      let red = 0, green = 0, blue = 0;
      for (let y = row * side; y < bottom; y++) {
        for (let at = (y * width + column * side) * 4; at < (y * width + right) * 4; at += 4) {
          red += data[at];
          green += data[at + 1];
          blue += data[at + 2];
        }
      }
      const target = (row * reduced.width + column) * 4;
      reduced.data[target] = Math.floor(red / count + 0.5);
      reduced.data[target + 1] = Math.floor(green / count + 0.5);
      reduced.data[target + 2] = Math.floor(blue / count + 0.5);
    }
  }
  return reduced;
}

// RGBA {data, width, height}, a Preprocess -> RGB (size, size, 3).
export function toPixels(image, preprocess) {
  const { size, interpolation, resize_mode: mode } = preprocess;
  if (mode === "longest") return fit(image, preprocess);
  if (mode === "shortest") return cover(image, preprocess);
  return resize(image, interpolation, [size, size], { left: 0, top: 0, width: size, height: size });
}

// RGB (size, size, 3), a Preprocess -> normalised Float32Array (3, size, size).
export function normalize(pixels, { size, mean, std }) {
  const round = Math.fround;
  const result = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    const scale = round(round(1 / 255) / round(std[channel]));
    const shift = round(round(mean[channel]) / round(std[channel]));
    for (let at = 0; at < size * size; at++) {
      result[channel * size * size + at] = round(pixels[3 * at + channel] * scale) - shift;
    }
  }
  return result;
}
