import { arrow, figure, rect, text } from '../../01-hardware-background/figures/drawing.ts';

const LAYERS = [
  { name: 'front-end driver', knows: 'what the device is for', unit: 'a request', here: 'driver/drivers/', guest: true },
  { name: 'virtio', knows: 'features, status, configuration', unit: 'a buffer, in pieces', here: 'driver/virtio-device.ts · device.ts', guest: true },
  {
    name: 'transport and ring',
    knows: 'where registers are, how buffers cross',
    unit: 'descriptors',
    here: 'transport/ · rings/ · driver/virtqueue.ts',
    guest: false,
  },
  { name: 'back-end', knows: 'a file, a socket, a source of noise', unit: 'a request again', here: 'devices/', guest: false },
] as const;

const [WIDTH, HEIGHT, GAP, LEFT] = [520, 54, 26, 10];

/** The four layers, with the name that each has for what it hands on. */
export function render(): string {
  const body = LAYERS.flatMap(({ name, knows, unit, here, guest }, index) => {
    const y = 10 + index * (HEIGHT + GAP);
    const box = [
      rect(LEFT, y, WIDTH, HEIGHT, { fill: 'paper-2', stroke: guest ? 'guest' : 'user' }),
      text(LEFT + 14, y + 22, name, { bold: true }),
      text(LEFT + 14, y + 41, knows, { ink: 'ink-2', size: 12 }),
      text(LEFT + WIDTH - 14, y + 22, here, { mono: true, size: 11, ink: 'ink-2', anchor: 'end' }),
      text(LEFT + WIDTH - 14, y + 41, `hands on ${unit}`, { ink: 'ink-2', size: 12, anchor: 'end' }),
    ];
    return index === LAYERS.length - 1 ? box : [...box, arrow(LEFT + WIDTH / 2, y + HEIGHT, LEFT + WIDTH / 2, y + HEIGHT + GAP - 2)];
  });
  return figure('The four layers of virtio', WIDTH + 2 * LEFT, LAYERS.length * (HEIGHT + GAP), body);
}
