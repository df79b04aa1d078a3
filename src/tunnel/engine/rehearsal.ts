/**
 * Runs the packet path on packets of its own before the engine is ready. Code that has not run yet is slow for its first
 * thousands of packets (parsing, interpretation, no type feedback), and these are the first packets of a user. The
 * rehearsal uses the same classes, with tables of its own in the memory that the real ones use afterwards. Packets go
 * into a socket pair in place of the TUN, are sealed, sent to the rehearsal's own UDP socket on loopback, opened, and
 * come out of the pair again. No packet leaves the host, and no state of the rehearsal remains.
 */
import type { Arena } from '../../linux/arena.ts'
import { KernelPoller } from '../../linux/poller.ts'
import { openTunPair, type Tun, VNET_HEADER } from '../../linux/tun.ts'
import { openUdp } from '../../linux/udp.ts'
import { Datapath } from '../datapath/datapath.ts'
import type { TunnelMachine } from '../protocol/machine.ts'
import type { Forwarder, Machine, MachineSeam } from '../seam.ts'
import { Engine } from './engine.ts'
import { rehearsalPackets } from './rehearsal-packets.ts'

/** A mechanism's forwarder with tables of its own, in which the peer with index 0 has one path. */
export interface Rehearsal {
  readonly forwarder: Forwarder
  /** Opens the path, by its slot. */
  open(slot: number): void
  /** Inner addresses of packets that it sends to peer 0 and receives from peer 0, by family. */
  readonly from4: Uint8Array
  readonly to4: Uint8Array
  readonly from6: Uint8Array
  readonly to6: Uint8Array
}

/**
 * The machine of a rehearsal: the real one with a peer, which does not act by itself, and the functions with which the
 * engine drives it.
 */
export type RehearsalMachine = (seam: MachineSeam) => {
  readonly machine: Pick<TunnelMachine, 'poll'>
  readonly driven: Machine
}

const LOOPBACK = Uint8Array.of(127, 0, 0, 1)
const RING_BYTES = 1 << 20
/** Turns with packets, and the max time (ms) for them; the rehearsal ends with whichever comes first. */
const TURNS = 4000
const MOST_MS = 400
/** What was compiled for one set of objects alone holds for no other: as many sets are made, one after the other. */
const SETS = 3
/** One turn in this many is a round of super-packets, which take far longer. */
const SUPER_EVERY = 40
/** Turns without anything arriving after which loopback is taken not to work. */
const MOST_LOST = 50

/** Rehearses in the arena, which is reset afterwards. Returns the packets that came back; throws what sockets throw. */
export function rehearse(
  arena: Arena,
  make: () => Rehearsal,
  build: RehearsalMachine,
  now: () => number,
  turns = TURNS,
): number {
  const start = now()
  let back = 0
  for (let set = 0; set < SETS; set++) {
    const until = start + (MOST_MS * (set + 1)) / SETS
    const last = Math.floor((turns * (set + 1)) / SETS) - Math.floor((turns * set) / SETS)
    back += rehearseOnce(arena, make(), build, now, last, until)
  }
  return back
}

function rehearseOnce(
  arena: Arena,
  rehearsal: Rehearsal,
  build: RehearsalMachine,
  now: () => number,
  turns: number,
  until: number,
): number {
  const [inside, outside] = openTunPair(arena)
  const poller = new KernelPoller()
  let machine: Pick<TunnelMachine, 'poll'> | undefined
  const datapath = new Datapath({
    arena,
    tun: inside,
    forwarder: rehearsal.forwarder,
    ringBytes: RING_BYTES,
    // Indices of sessions have 32 bits: for V8 half of them are integers, half are floats.
    random: () => 0xffff_ffff,
    machine: (seam) => {
      const built = build(seam)
      machine = built.machine
      return built.driven
    },
  })
  const engine = new Engine({
    datapath,
    tun: inside,
    poller,
    now,
    onTurn: () => {
      while (machine!.poll() !== undefined);
    },
  })
  try {
    const udp = openUdp(arena, { family: 6, device: 'lo', multihomed: true })
    const socket = engine.addSocket(udp)
    const indices = begin(datapath, socket, udp.port, rehearsal)
    try {
      return play(arena, engine, outside, rehearsal, now, turns, until)
    } finally {
      for (const index of indices) datapath.remove(index)
    }
  } finally {
    engine.close()
    outside.close()
    arena.reset()
  }
}

/** One session with itself, one path to its own socket. */
function begin(datapath: Datapath, socket: number, port: number, rehearsal: Rehearsal): number[] {
  const localIndex = datapath.newIndex()
  const key = () => new Uint8Array(32).fill(1)
  datapath.install({
    peer: 0,
    localIndex,
    remoteIndex: localIndex,
    sendKey: key(),
    receiveKey: key(),
    sendKeyAes: key(),
    receiveKeyAes: key(),
  })
  datapath.setForm(0, 'godwit')
  datapath.useForSending(localIndex)
  rehearsal.open(
    datapath.open({ peer: 0, pathId: 1, socket, remote: { address: LOOPBACK, port }, mtu: 1500 }),
  )
  return [localIndex]
}

/** Packets of each kind in turn, one a turn as pings come; returns how many came back. */
function play(
  arena: Arena,
  engine: Engine,
  outside: Tun,
  rehearsal: Rehearsal,
  now: () => number,
  turns: number,
  until: number,
): number {
  const { small, large } = rehearsalPackets(rehearsal)
  const at = arena.reserve(VNET_HEADER + 65_535)
  let back = 0
  let lost = 0
  for (let turn = 0; turn < turns && lost < MOST_LOST && now() < until; turn++) {
    const packets = turn % SUPER_EVERY === SUPER_EVERY - 1 ? large : small
    const packet = packets[Math.floor(turn / (packets === large ? SUPER_EVERY : 1)) % packets.length]!
    arena.u8.set(packet, at)
    outside.write(at, packet.length)
    // Out in one turn, back in the next.
    engine.turn(false)
    engine.turn(false)
    const before = back
    while (outside.read(at, VNET_HEADER + 65_535) > 0) back++
    lost = back === before ? lost + 1 : 0
  }
  return back
}
