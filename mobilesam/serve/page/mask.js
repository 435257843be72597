// Converts the run lengths of a mask to a smooth outline, which a canvas can fill and stroke at any zoom.

/** The run lengths in COCO's compressed string, column by column. The first run is outside the mask. */
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

/** For each column, the rows where its runs begin and end. An empty column is added on the left and on the right. */
function columns({ size: [height, width], counts }) {
  const flips = Array.from({ length: width + 2 }, () => []);
  let position = 0, inside = false;
  for (const count of unpack(counts)) {
    for (let from = position; inside && from < position + count; ) {
      const column = Math.floor(from / height);
      const end = Math.min(position + count, (column + 1) * height);
      flips[column + 1].push(from - column * height, end - column * height);
      from = end;
    }
    position += count;
    inside = !inside;
  }
  return flips;
}

const UP = 1, DOWN = 2, LEFT = 4, RIGHT = 8;

/**
 * The edges between inside and outside. Corners of pixels are numbered column by column, `stride` per column. A bit of
 * leaving[corner] means that an edge leaves the corner in that direction, with the inside on its right. `corners` lists
 * the corners that an edge leaves.
 */
function edges(flips, stride) {
  const leaving = new Uint8Array(flips.length * stride);
  const corners = [];
  const leave = (corner, way) => {
    if (!leaving[corner]) corners.push(corner);
    leaving[corner] |= way;
  };
  for (let x = 1; x < flips.length; x++) {
    const before = flips[x - 1], here = flips[x], top = x * stride;
    for (let i = 0; i < here.length; i += 2) {
      leave(top + here[i], RIGHT);
      leave(top + here[i + 1] + stride, LEFT);
    }
    // Walk down both columns together. i and j count the run starts and ends passed in each column: odd is inside.
    for (let i = 0, j = 0, y = 0; i < before.length || j < here.length; ) {
      const next = Math.min(before[i] ?? Infinity, here[j] ?? Infinity);
      if ((i ^ j) & 1) {
        for (; y < next; y++) leave(j & 1 ? top + y + 1 : top + y, j & 1 ? UP : DOWN);
      }
      y = next;
      i += before[i] === next;
      j += here[j] === next;
    }
  }
  return { leaving, corners };
}

const RIGHT_TURN = { [UP]: [RIGHT, UP, LEFT], [RIGHT]: [DOWN, RIGHT, UP], [DOWN]: [LEFT, DOWN, RIGHT], [LEFT]: [UP, LEFT, DOWN] };

/** The outlines of a mask as flat arrays [x, y, x, y, ...], in pixels of the mask, with rounded corners. */
export function outlines(rle) {
  const stride = rle.size[0] + 1;
  const { leaving, corners } = edges(columns(rle), stride);
  const step = { [UP]: -1, [DOWN]: 1, [LEFT]: -stride, [RIGHT]: stride };
  const loops = [];
  for (const start of corners) {
    while (leaving[start]) {
      const middles = []; // midpoints of the edges
      let corner = start;
      let way = leaving[start] & -leaving[start];
      do {
        leaving[corner] &= ~way;
        const x = Math.floor(corner / stride), y = corner - x * stride;
        middles.push(x - 1 + (way === RIGHT ? 0.5 : way === LEFT ? -0.5 : 0), y + (way === DOWN ? 0.5 : way === UP ? -0.5 : 0));
        corner += step[way];
        way = RIGHT_TURN[way].find((turn) => leaving[corner] & turn);
      } while (way);
      loops.push(smooth(middles));
    }
  }
  return loops;
}

/** Moves each point towards the midpoint of its neighbours, and drops points in the middle of a straight line. */
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

/** The mask's outline as one path, to be filled with the rule "evenodd". */
export function toPath(rle) {
  const path = new Path2D();
  for (const loop of outlines(rle)) {
    path.moveTo(loop[0], loop[1]);
    for (let i = 2; i < loop.length; i += 2) path.lineTo(loop[i], loop[i + 1]);
    path.closePath();
  }
  return path;
}
