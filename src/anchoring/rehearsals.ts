/**
 * Rehearsals of the engines of a mobile host and of an anchor (tunnel/engine/rehearsal.ts): a forwarder with one peer.
 */
import type { Rehearsal } from '../tunnel/engine/rehearsal.ts'
import { AnchorForwarder } from './forwarders/anchor.ts'
import { HostForwarder } from './forwarders/host.ts'
import { Groups } from './tables/groups.ts'
import { Paft } from './tables/paft.ts'
import { TunnelTable } from './tables/tunnels.ts'

const SECRET = new Uint8Array(8)
const NUMBER = 2
const BASE = 0xc612_0000
const VIPA4 = Uint8Array.of(198, 18, 0, NUMBER)
const PREFIX6 = Uint8Array.of(0xfd, 0x67, 0x6f, 0x64, 0x77, 0x69, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
const VIPA6 = Uint8Array.of(...PREFIX6.subarray(0, 15), NUMBER)

function tables() {
  return {
    paft: new Paft({ allocate: (bytes) => new ArrayBuffer(bytes), rows: 64, limit: 64 }),
    tunnels: new TunnelTable(),
  }
}

function openTunnel(tunnels: TunnelTable, slot: number): number {
  return tunnels.open({
    slot,
    peer: 0,
    localTun: { interface: '', index: 0 },
    remoteTun: { endPoint: '', index: 0 },
    vipNat: {},
    unTid: 1,
  }).localTid
}

/** To its own VIpA: the internal NAT rewrites the source on the way out and the destination on the way in. */
export function hostRehearsal(fix4: Uint8Array, fix6: Uint8Array): Rehearsal {
  const { paft, tunnels } = tables()
  const forwarder = new HostForwarder({ paft, tunnels, fix4, fix6, secret: SECRET })
  forwarder.associate(0, VIPA4, VIPA6)
  return {
    forwarder,
    open: (slot) => {
      forwarder.defaultTid = openTunnel(tunnels, slot)
    },
    from4: fix4,
    to4: VIPA4,
    from6: fix6,
    to6: VIPA6,
  }
}

/** From a host's VIpA to the same. */
export function anchorRehearsal(): Rehearsal {
  const { paft, tunnels } = tables()
  const forwarder = new AnchorForwarder({
    paft,
    tunnels,
    groups: new Groups(paft),
    v4Base: BASE,
    numbers: NUMBER + 1,
    v6Prefix: PREFIX6,
    secret: SECRET,
  })
  forwarder.assign(0, NUMBER)
  return {
    forwarder,
    open: (slot) => forwarder.setDefaultTid(0, openTunnel(tunnels, slot)),
    from4: VIPA4,
    to4: VIPA4,
    from6: VIPA6,
    to6: VIPA6,
  }
}
