import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { EXIT } from '../abi/exits.ts';
import { IOCTL } from '../abi/ioctls.ts';
import { ERRNO } from '../errno.ts';
import { type Allocation, EFD, O_CLOEXEC, O_RDWR } from '../kernel.ts';
import { Kvm } from '../kvm.ts';
import { HostKernel, hostKernelAvailable } from './host-kernel.ts';

const here = hostKernelAvailable();
const reason = here.available ? null : here.reason;
const descriptors = (): number => readdirSync('/proc/self/fd').length;
const timers = (): number =>
  readFileSync('/proc/self/timers', 'utf8')
    .split('\n')
    .filter((line) => line.startsWith('ID:')).length;

describe('looking for the host kernel', () => {
  it('says why there is none', () => {
    expect(hostKernelAvailable('/dev/kvm-of-nobody')).toMatchObject({ available: false });
    expect(JSON.stringify(hostKernelAvailable('/dev/kvm-of-nobody'))).toMatch(process.platform === 'linux' ? /ENOENT|koffi|x86-64/ : /Linux/);
  });
});

describe('without the optional package', () => {
  it('says that it is missing, and nothing else breaks', () => {
    const script = `
      import Module from 'node:module';
      const resolve = Module._resolveFilename;
      Module._resolveFilename = (name, ...rest) => { if (name === 'koffi') throw new Error('gone'); return resolve(name, ...rest); };
      const { HostKernel, hostKernelAvailable } = await import(${JSON.stringify(new URL('./host-kernel.ts', import.meta.url).href)});
      console.log(JSON.stringify(hostKernelAvailable()));
      try { new HostKernel(); } catch (error) { console.log(error.message); }`;
    const { stdout } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script], {
      encoding: 'utf8',
    });
    const expected = process.platform === 'linux' && process.arch === 'x64' ? "the optional package 'koffi' is not installed" : expect.any(String);
    const [found, thrown] = stdout.trim().split('\n');
    expect(JSON.parse(found as string)).toEqual({ available: false, reason: expected });
    expect(thrown).toEqual(expected);
  });
});

describe.skipIf(reason !== null)(`the host kernel${reason ? ` (skipped: ${reason})` : ''}`, () => {
  let kernel: HostKernel;
  afterEach(() => kernel?.dispose());
  const allocate = (bytes: number): Allocation => {
    const block = kernel.allocate(bytes);
    if (typeof block === 'number') throw new Error(`errno ${-block}`);
    return block;
  };

  it('shares one page of bytes between JavaScript, the kernel and other views', () => {
    kernel = new HostKernel();
    const { bytes } = allocate(8192);
    expect(bytes.buffer).toBeInstanceOf(SharedArrayBuffer); // so it can be handed to a Worker
    Atomics.add(new Int32Array(bytes.buffer, 0, 4), 1, 7);
    expect(bytes[4]).toBe(7);
  });

  it('runs guest code and lets JavaScript see what it wrote', () => {
    kernel = new HostKernel();
    const kvm = Kvm.open(kernel);
    const vm = kvm.createVm();
    const { hva, bytes } = kvm.allocate(0x10000);
    vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 0x10000, userspace_addr: hva });
    const vcpu = vm.createVcpu(0);
    vcpu.setSregs({ cs: { ...vcpu.getSregs().cs, base: 0n, selector: 0 } });
    vcpu.setRegs({ rip: 0x1000n });
    bytes.set([0xc6, 0x06, 0x00, 0x20, 0x2a, 0xf4], 0x1000); // mov byte [0x2000], 42; hlt
    let exit: number = EXIT.KVM_EXIT_INTR;
    for (let n = 0; n < 100 && exit === EXIT.KVM_EXIT_INTR; n++) exit = vcpu.run(); // a busy machine may not get there within one tick
    expect(exit).toBe(EXIT.KVM_EXIT_HLT);
    expect(bytes[0x2000]).toBe(42);
    expect(vcpu.getRegs().rip).toBe(0x1006n);
  });

  it('comes back from a guest that never leaves', () => {
    kernel = new HostKernel();
    const kvm = Kvm.open(kernel);
    const vm = kvm.createVm();
    const { hva, bytes } = kvm.allocate(0x10000);
    vm.setUserMemoryRegion({ slot: 0, guest_phys_addr: 0, memory_size: 0x10000, userspace_addr: hva });
    const vcpu = vm.createVcpu(0);
    vcpu.setSregs({ cs: { ...vcpu.getSregs().cs, base: 0n, selector: 0 } });
    for (const program of [
      [0xeb, 0xfe], // jmp .
      [0x0f, 0x01, 0xc1, 0xeb, 0xfb], // vmcall; jmp back
    ]) {
      bytes.set(program, 0x1000);
      vcpu.setRegs({ rip: 0x1000n });
      expect(vcpu.run()).toBe(EXIT.KVM_EXIT_INTR);
      expect(vcpu.run()).toBe(EXIT.KVM_EXIT_INTR);
    }
    expect(timers()).toBe(1);
    kernel.dispose();
    expect(timers()).toBe(0);
  });

  it('returns at once when immediate_exit is set, before the guest has done anything', () => {
    kernel = new HostKernel();
    const kvm = Kvm.open(kernel);
    const vcpu = kvm.createVm().createVcpu(0);
    vcpu.page.immediateExit = true;
    expect(vcpu.run()).toBe(EXIT.KVM_EXIT_INTR);
    expect(vcpu.getRegs().rip).toBe(0xfff0n);
  });

  it('leaves stale views readable: memory that was freed reads as zeros', () => {
    kernel = new HostKernel();
    const { hva, bytes } = allocate(4096);
    bytes.fill(7);
    expect(kernel.free(hva)).toBe(0);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
    const system = kernel.open('/dev/kvm', O_RDWR | O_CLOEXEC);
    const vm = kernel.ioctl(system, IOCTL.KVM_CREATE_VM, 0);
    const vcpu = kernel.ioctl(vm, IOCTL.KVM_CREATE_VCPU, 0);
    const page = kernel.mmap(vcpu, kernel.ioctl(system, IOCTL.KVM_GET_VCPU_MMAP_SIZE)) as Uint8Array;
    page[1] = 1;
    kernel.close(vcpu);
    expect(page[1]).toBe(0);
  });

  it('gives every descriptor back', () => {
    const before = descriptors();
    for (let round = 0; round < 20; round++) {
      kernel = new HostKernel();
      const kvm = Kvm.open(kernel);
      const vm = kvm.createVm();
      vm.createVcpu(0);
      vm.createVcpu(1);
      allocate(1 << 20);
      kernel.dispose();
    }
    expect(descriptors()).toBe(before);
  });

  describe('watching a counter', () => {
    const one = new Uint8Array(BigUint64Array.of(1n).buffer);
    const soon = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 30));
    it('tells each reader once for what has come, between two other callbacks', async () => {
      kernel = new HostKernel();
      const fd = kernel.eventfd(0, EFD.EFD_NONBLOCK);
      const [heard, read] = [[] as string[], new Uint8Array(8)];
      const end = kernel.watch(fd, () => {
        if (kernel.read(fd, read) === 8) heard.push(`${read[0]}`);
      });
      const other = kernel.watch(fd, () => void heard.push('other'));
      if (typeof end === 'number' || typeof other === 'number') throw new Error('cannot watch');
      for (let n = 0; n < 3; n++) kernel.write(fd, one);
      expect(heard).toEqual([]);
      await soon();
      expect(heard).toEqual(['3', 'other']);
      other();
      kernel.write(fd, one);
      await soon();
      expect(heard.slice(2)).toEqual(['1']);
      end();
      end();
      kernel.write(fd, one);
      await soon();
      expect(heard).toHaveLength(3);
    });
    it('hears another thread, and ends with its descriptor', async () => {
      kernel = new HostKernel();
      const fd = kernel.eventfd(0, EFD.EFD_NONBLOCK);
      const read = new Uint8Array(8);
      let heard = 0;
      const wait = new Promise<void>((resolve) => {
        kernel.watch(fd, () => {
          if (kernel.read(fd, read) === 8) heard++;
          resolve();
        });
      });
      const holding = setTimeout(() => {}, 20_000); // a watch alone keeps no process alive
      const libc = JSON.stringify(new URL('./libc.ts', import.meta.url).href);
      new Worker(`import(${libc}).then(({ libc }) => libc().write(${fd}, new Uint8Array(BigUint64Array.of(1n).buffer)))`, { eval: true });
      await wait;
      clearTimeout(holding);
      expect(heard).toBe(1);
      kernel.close(fd);
      expect(kernel.watch(fd, () => {})).toBe(-ERRNO.EBADF);
      const again = kernel.eventfd(1, EFD.EFD_NONBLOCK); // the same number, most likely
      await soon();
      expect([heard, kernel.read(again, read)]).toEqual([1, 8]);
    });
    it('lets a process end', () => {
      const script = `
        import { HostKernel } from ${JSON.stringify(new URL('./host-kernel.ts', import.meta.url).href)};
        const kernel = new HostKernel();
        console.log(typeof kernel.watch(kernel.eventfd(0, 0), () => {}));`;
      const { status, stdout } = spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', script], {
        encoding: 'utf8',
        timeout: 20_000,
      });
      expect([status, stdout.trim()]).toEqual([0, 'function']);
    });
  });

  it('does not close what is not its own', () => {
    kernel = new HostKernel();
    expect(kernel.close(0)).toBe(-ERRNO.EBADF);
    expect(kernel.close(1)).toBe(-ERRNO.EBADF);
  });
});
