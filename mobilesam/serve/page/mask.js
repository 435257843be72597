// From a mask's run lengths to a smooth outline that a canvas fills and strokes at any zoom.

/** COCO's packed string: the run lengths, outside first, column by column. */
export function unpack(string) {
  const counts = [];
  let at = 0;
  while (at < string.length) {
    let value = 0, shift = 0, group;
    do {
      group = string.charCodeAt(at++) - 48;
      value += (group & 31) * 2 ** shift;
      shift += 5;
    } while (group & 32);
    if (group & 16) value -= 2 ** shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

/** The mask as bytes of 0 and 1, column by column, with an empty border of one pixel: (height + 2) × (width + 2). */
function paint({ size: [height, width], counts }) {
  const stride = height + 2;
  const bits = new Uint8Array(stride * (width + 2));
  let position = 0, inside = false;
  for (const count of unpack(counts)) {
    for (let from = position; inside && from < position + count; ) {
      const column = Math.floor(from / height);
      const end = Math.min(position + count, (column + 1) * height);
      const first = (column + 1) * stride + 1 + from - column * height;
      bits.fill(1, first, first + end - from);
      from = end;
    }
    position += count;
    inside = !inside;
  }
  return bits;
}

const UP = 1, DOWN = 2, LEFT = 4, RIGHT = 8;

/**
 * The edges between inside and outside as loops of corners. At a corner a bit says that an edge leaves that way, with
 * the inside on its right hand; regions that touch at a corner stay apart.
 */
function edges(bits, stride, columns) {
  const leaving = new Uint8Array(bits.length);
  for (let x = 1; x < columns; x++) {
    const end = (x + 1) * stride;
    for (let i = x * stride + 1; i < end; i++) {
      const here = bits[i];
      if (here !== bits[i - 1]) leaving[here ? i : i + stride] |= here ? RIGHT : LEFT;
      if (here !== bits[i - stride]) leaving[here ? i + 1 : i] |= here ? UP : DOWN;
    }
  }
  return leaving;
}

const RIGHT_TURN = { [UP]: [RIGHT, UP, LEFT], [RIGHT]: [DOWN, RIGHT, UP], [DOWN]: [LEFT, DOWN, RIGHT], [LEFT]: [UP, LEFT, DOWN] };

/** The outlines of a mask as flat arrays [x, y, x, y, ...], in the mask's pixels, corners rounded off. */
export function outlines(rle) {
  const [height, width] = rle.size;
  const stride = height + 2;
  const leaving = edges(paint(rle), stride, width + 2);
  const step = { [UP]: -1, [DOWN]: 1, [LEFT]: -stride, [RIGHT]: stride };
  const loops = [];
  for (let start = 0; start < leaving.length; start++) {
    while (leaving[start]) {
      const middles = []; // of the edges: half a pixel from a corner
      let corner = start;
      let way = leaving[start] & -leaving[start];
      do {
        leaving[corner] &= ~way;
        const next = corner + step[way];
        const x = Math.floor(corner / stride), y = corner - x * stride;
        middles.push(x - 1 + (way === RIGHT ? 0.5 : way === LEFT ? -0.5 : 0), y - 1 + (way === DOWN ? 0.5 : way === UP ? -0.5 : 0));
        corner = next;
        way = RIGHT_TURN[way].find((turn) => leaving[corner] & turn);
      } while (way);
      loops.push(smooth(middles));
    }
  }
  return loops;
}

/** Each point moved towards the middle of its neighbours; points on a straight line dropped. */
function smooth(loop) {
  const n = loop.length;
  const result = [];
  let lastX = NaN, lastY = NaN, slopeX = NaN, slopeY = NaN;
  for (let i = 0; i < n; i += 2) {
    const before = (i + n - 2) % n, after = (i + 2) % n;
    const x = (loop[before] + 2 * loop[i] + loop[after]) / 4;
    const y = (loop[before + 1] + 2 * loop[i + 1] + loop[after + 1]) / 4;
    if (x - lastX === slopeX && y - lastY === slopeY) {
      result[result.length - 2] = x;
      result[result.length - 1] = y;
    } else {
      result.push(x, y);
    }
    slopeX = x - lastX;
    slopeY = y - lastY;
    lastX = x;
    lastY = y;
  }
  return result;
}

/** The mask's outline as one path, to fill with "evenodd". */
export function toPath(rle) {
  const path = new Path2D();
  for (const loop of outlines(rle)) {
    path.moveTo(loop[0], loop[1]);
    for (let i = 2; i < loop.length; i += 2) path.lineTo(loop[i], loop[i + 1]);
    path.closePath();
  }
  return path;
}
