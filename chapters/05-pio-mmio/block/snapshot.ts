// # A disk that forgets
//
// To try something on a disk and keep the disk: reads come from it, and what is written goes into memory, in pieces, over it. Whoever reads finds the last that
// was written. When the machine ends, so do the pieces. A flush keeps its promise only as long as the machine lives, which is all that anybody was told.

import { describe, field, kind, type SavedPart, StateError, savedPart } from '../../03-vcpu-loop/devices/state.ts';
import { type BlockBackend, SECTOR_BYTES, withinDisk } from './block.ts';

const PIECE_SECTORS = 8;
const PIECE_BYTES = PIECE_SECTORS * SECTOR_BYTES;
/** A guest could fill the host's memory by writing. */
const SNAPSHOT_LIMIT_BYTES = 2 ** 30;

interface Piece {
  readonly index: number;
  readonly bytes: Uint8Array;
}

export class SnapshotBlock implements BlockBackend {
  readonly readOnly = false;
  readonly #under: BlockBackend;
  readonly #pieces = new Map<number, Uint8Array>();
  readonly #limit: number;

  constructor(under: BlockBackend, { limitBytes = SNAPSHOT_LIMIT_BYTES }: { readonly limitBytes?: number } = {}) {
    this.#under = under;
    this.#limit = Math.floor(limitBytes / PIECE_BYTES);
  }

  get sectors(): number {
    return this.#under.sectors;
  }

  /** How much of the disk is in memory. */
  get keptBytes(): number {
    return this.#pieces.size * PIECE_BYTES;
  }

  read(sector: number, into: Uint8Array): boolean {
    if (!withinDisk(this, sector, into.length) || !this.#under.read(sector, into)) return false;
    if (this.#pieces.size > 0)
      eachPiece(sector, into.length, (index, at, from, length) => {
        const piece = this.#pieces.get(index);
        if (piece) into.set(piece.subarray(at, at + length), from);
        return true;
      });
    return true;
  }

  write(sector: number, from: Uint8Array): boolean {
    if (!withinDisk(this, sector, from.length)) return false;
    return eachPiece(sector, from.length, (index, at, start, length) => {
      const piece = this.#pieces.get(index) ?? this.#copied(index, length === PIECE_BYTES);
      piece?.set(from.subarray(start, start + length), at);
      return piece !== null;
    });
  }

  /** A new piece, with what the disk has there unless all of it is about to be written; null when there are too many or the disk cannot be read. */
  #copied(index: number, whole: boolean): Uint8Array | null {
    if (this.#pieces.size >= this.#limit) return null;
    const piece = new Uint8Array(PIECE_BYTES);
    const sectors = Math.min(PIECE_SECTORS, this.sectors - index * PIECE_SECTORS); // a disk may end within a piece
    if (!whole && !this.#under.read(index * PIECE_SECTORS, piece.subarray(0, sectors * SECTOR_BYTES))) return null;
    this.#pieces.set(index, piece);
    return piece;
  }

  flush(): boolean {
    return true;
  }

  // ## State
  //
  // What was written is in the file of a saved machine; what is beneath is not.

  static readonly STATE = describe<SnapshotBlock>('what was written to a drive that forgets', 1, {
    sectors: {
      text: 'as many as the drive beneath has',
      save: (block, out) => out.f64(block.sectors),
      load(block, from) {
        const sectors = from.f64();
        if (sectors !== block.sectors) throw new StateError(`a drive of ${sectors} sectors; this one has ${block.sectors}`);
        return () => {};
      },
    },
    pieces: field(
      kind.list(kind.record<Piece>({ index: kind.upTo(Number.MAX_SAFE_INTEGER), bytes: kind.bytes(PIECE_BYTES) }), 0xffff_ffff),
      (block) => [...block.#pieces].sort(([a], [b]) => a - b).map(([index, bytes]) => ({ index, bytes })),
      (block, pieces) => {
        block.#pieces.clear();
        for (const { index, bytes } of pieces) {
          if (bytes.length !== PIECE_BYTES || block.#pieces.size >= block.#limit) throw new StateError(`piece ${index} of a drive does not fit`);
          block.#pieces.set(index, bytes);
        }
      },
    ),
  });

  savedPart(name: string): SavedPart {
    return savedPart<SnapshotBlock>(name, this, SnapshotBlock.STATE);
  }
}

/** Calls `use` for each piece that a stretch of sectors touches: which, where in it, where in the stretch, how long. False as soon as one says so. */
function eachPiece(sector: number, bytes: number, use: (index: number, at: number, from: number, length: number) => boolean): boolean {
  const start = sector * SECTOR_BYTES;
  for (let done = 0; done < bytes; ) {
    const index = Math.floor((start + done) / PIECE_BYTES);
    const at = start + done - index * PIECE_BYTES;
    const length = Math.min(bytes - done, PIECE_BYTES - at);
    if (!use(index, at, done, length)) return false;
    done += length;
  }
  return true;
}
