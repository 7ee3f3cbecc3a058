// # Which device
//
// Two choices beside the payload, shown when it has a virtio device: how the guest reaches it, and the format of the ring between them.

import { TRANSPORTS, type Transport } from '../../spec-tests/device-script/wire.ts';
import { get } from './dom.ts';
import { type Devices, pickMachine } from './machines.ts';

const NAMES: Readonly<Record<Transport, string>> = {
  pci: 'PCI',
  transitional: 'PCI, legacy registers',
  mmio: 'memory',
  'mmio-legacy': 'memory, legacy registers',
};

export class DeviceChoice {
  /** The reader wants another machine. */
  onChange: () => void = () => {};
  readonly #transport = get<HTMLSelectElement>('transport');
  readonly #ring = get<HTMLSelectElement>('ring');
  #machines: readonly Devices[] = [];
  devices: Devices = [];

  constructor() {
    for (const select of [this.#transport, this.#ring]) {
      select.addEventListener('change', () => {
        this.#pick(this.#transport.value, this.#ring.value);
        this.onChange();
      });
    }
  }

  /** What an address has to say of the choice: nothing when there is none. */
  get place(): { readonly transport: string | null; readonly ring: string | null } {
    const [first] = this.devices;
    return { transport: first?.transport ?? null, ring: first?.ring ?? null };
  }

  show(machines: readonly Devices[], transport: string | null, ring: string | null): void {
    this.#machines = machines;
    const has = (name: string): boolean => machines.some(([first]) => first?.transport === name);
    this.#transport.replaceChildren(...TRANSPORTS.filter(has).map((name) => new Option(NAMES[name], name)));
    for (const { parentElement } of [this.#transport, this.#ring]) if (parentElement) parentElement.hidden = machines.length === 0;
    this.#pick(transport, ring);
  }

  #pick(transport: string | null, ring: string | null): void {
    this.devices = pickMachine(this.#machines, transport, ring);
    const { place } = this;
    for (const option of this.#ring.options)
      option.disabled = !this.#machines.some(([first]) => first?.transport === place.transport && first.ring === option.value);
    this.#transport.value = place.transport ?? '';
    this.#ring.value = place.ring ?? '';
  }
}
