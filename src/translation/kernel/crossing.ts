/**
 * Flows of one family on paths of the other, when a host has no pair of their own family left (DI-6, Table III;
 * experimental). Their packets are routed into a device of ours, translated there by eBPF and sent by the access; what
 * arrives on an access is translated back and received from that device. crossing-program.ts has the program. There
 * are programs on devices only while there are such flows.
 */
import { concat, equal } from '../../core/bytes.ts'
import { closeFd, KernelError } from '../../linux/libc.ts'
import { inNamespace } from '../../linux/netns.ts'
import type { Link, Rtnl } from '../../linux/rtnetlink/types.ts'
import {
  attachTcx,
  type BpfMap,
  createHash,
  detachTcx,
  loadProgram,
  putElement,
  removeElement,
  Tcx,
  tcxPrograms,
} from '../../linux/tcx.ts'
import type { HostNetwork } from '../network.ts'
import { bytesOf, type Compiled, familyOf, type Ip, type Pair, pairKey } from '../tables.ts'
import { crossingProgram, FROM4, FROM6, SAME6 } from './crossing-program.ts'

const MOST_FLOWS = 131_072
const OUT = 'godwit_crossout'
const IN = 'godwit_crossin'

/** By the family that a packet has before; `same`: IPv6 that stays IPv6. */
type MapName = 4 | 6 | 'same'
const MAPS: readonly MapName[] = [4, 6, 'same']

type Elements = Map<string, { readonly key: Uint8Array; readonly value: Uint8Array }>

interface Installed {
  readonly maps: Readonly<Record<MapName, BpfMap>>
  readonly elements: Record<MapName, Elements>
  readonly gate: number
  /** Accesses with the program, by index. */
  readonly accesses: Set<number>
}

export interface CrossingInit {
  readonly netns: string | undefined
  readonly warn: (text: string) => void
}

export class Crossing {
  readonly #rtnl: Rtnl
  readonly #network: HostNetwork
  readonly #init: CrossingInit
  #installed: Installed | undefined
  /**
   * Whether no device has a program. At first an earlier run may have left some; what they take must not reach the stack
   * before there are new ones, which would answer it with resets.
   */
  #clean = false

  constructor(rtnl: Rtnl, network: HostNetwork, init: CrossingInit) {
    this.#rtnl = rtnl
    this.#network = network
    this.#init = init
  }

  /**
   * Carries the flows that `compiled` names, through the device `gate`; `devices` has those of own addresses. What the
   * kernel refuses is said, and the flows wait for a pair of their own family, as they would have.
   */
  apply(compiled: Compiled, gate: string | undefined, devices: ReadonlyMap<Ip, string>): void {
    const pairs = new Map<string, Pair>()
    for (const family of [4, 6] as const)
      for (const { flow } of compiled[family].cross_out.values())
        pairs.set(pairKey(flow), { local: flow.local, foreign: flow.foreign })
    try {
      this.#translate(compiled, gate, devices)
      this.#network.cross([...pairs.values()], gate ?? '')
    } catch (error) {
      if (!(error instanceof KernelError)) throw error
      this.#init.warn(`connections cannot go on in the other family: ${error.message}`)
    }
  }

  #translate(compiled: Compiled, gate: string | undefined, devices: ReadonlyMap<Ip, string>): void {
    const none = [compiled[4], compiled[6]].every((f) => f.cross_in.size + f.cross_out.size === 0)
    const gateIndex = gate === undefined ? undefined : this.#rtnl.link(gate)?.index
    if (none || gateIndex === undefined) {
      this.#remove()
      return
    }
    const links = new Map<string, Link>()
    for (const device of new Set(devices.values())) {
      const link = this.#rtnl.link(device)
      if (link !== undefined) links.set(device, link)
    }
    const installed = this.#install(gateIndex)
    fill(
      installed,
      encode(compiled, (ip) => links.get(devices.get(ip) ?? '')?.index ?? 0),
    )
    for (const { index, mac } of links.values()) {
      if (installed.accesses.has(index)) continue
      this.#attach(installed, index, Tcx.INGRESS, { ethernet: mac !== '', into: gateIndex })
      installed.accesses.add(index)
    }
  }

  /** The maps, and the program on the gate; new ones where the gate is a new device. */
  #install(gate: number): Installed {
    const before = this.#installed
    if (before?.gate === gate) return before
    const maps = {
      4: createHash('godwit_from4', FROM4.key, FROM4.value, MOST_FLOWS),
      6: createHash('godwit_from6', FROM6.key, FROM6.value, MOST_FLOWS),
      same: createHash('godwit_same6', SAME6.key, SAME6.value, MOST_FLOWS),
    }
    const installed: Installed = { maps, elements: noElements(), gate, accesses: new Set() }
    this.#installed = installed
    this.#clean = false
    this.#attach(installed, gate, Tcx.EGRESS, { ethernet: false })
    if (before !== undefined) close(before)
    return installed
  }

  /** The new program is there before an old one goes. */
  #attach(
    { maps }: Installed,
    index: number,
    where: Tcx,
    how: { readonly ethernet: boolean; readonly into?: number },
  ): void {
    const name = where === Tcx.INGRESS ? IN : OUT
    const code = crossingProgram({ ...how, from4: maps[4].fd, from6: maps[6].fd, same6: maps.same.fd })
    const program = loadProgram(name, code, where)
    try {
      inNamespace(this.#init.netns, () => {
        const before = tcxPrograms(index, where)
        attachTcx(index, where, program)
        detachTcx(index, where, name, before)
      })
    } finally {
      closeFd(program)
    }
  }

  #remove(): void {
    if (this.#clean) return
    const before = this.#installed
    this.#installed = undefined
    this.cleanUp()
    this.#clean = true
    if (before !== undefined) close(before)
  }

  /** Takes the programs off all devices, those of an earlier run too. */
  cleanUp(): void {
    for (const { index } of this.#rtnl.links())
      inNamespace(this.#init.netns, () => {
        try {
          detachTcx(index, Tcx.INGRESS, IN)
          detachTcx(index, Tcx.EGRESS, OUT)
        } catch (error) {
          if (!(error instanceof KernelError)) throw error // a kernel without them, or a device that has just gone
        }
      })
  }
}

function close({ maps }: Installed): void {
  for (const map of MAPS) closeFd(maps[map].fd)
}

function noElements(): Record<MapName, Elements> {
  return { 4: new Map(), 6: new Map(), same: new Map() }
}

/** Makes the maps hold what is wanted. */
function fill(installed: Installed, wanted: Readonly<Record<MapName, Elements>>): void {
  for (const name of MAPS) {
    const map = installed.maps[name]
    for (const [text, { key }] of installed.elements[name])
      if (!wanted[name].has(text)) removeElement(map, key)
    for (const [text, { key, value }] of wanted[name]) {
      const before = installed.elements[name].get(text)
      if (before === undefined || !equal(before.value, value)) putElement(map, key, value)
    }
    installed.elements[name] = wanted[name]
  }
}

/** The elements of both maps; what a packet of a family becomes is looked up in the map of that family. */
function encode(compiled: Compiled, device: (ip: Ip) => number): Record<MapName, Elements> {
  const out = noElements()
  const put = (
    from: readonly [Ip, Ip],
    ports: readonly [number, number],
    protocol: number,
    to: readonly [Ip, Ip],
    index: number,
  ): void => {
    const tail = new Uint8Array(8)
    const view = new DataView(tail.buffer)
    view.setUint16(0, ports[0])
    view.setUint16(2, ports[1])
    tail[4] = protocol
    const key = concat(bytesOf(from[0]), bytesOf(from[1]), tail)
    const by = new Uint8Array(8)
    new DataView(by.buffer).setUint32(0, index, true)
    const value = concat(bytesOf(to[0]), bytesOf(to[1]), by)
    const family = familyOf(from[0])
    out[familyOf(to[0]) === family ? 'same' : family].set(Buffer.from(key).toString('latin1'), { key, value })
  }
  for (const family of [4, 6] as const) {
    for (const { flow, wire } of compiled[family].cross_in.values())
      put(
        [wire.foreign, wire.local],
        [flow.foreignPort, flow.localPort],
        flow.protocol,
        [flow.foreign, flow.local],
        0,
      )
    for (const { flow, wire } of compiled[family].cross_out.values())
      put(
        [flow.local, flow.foreign],
        [flow.localPort, flow.foreignPort],
        flow.protocol,
        [wire.local, wire.foreign],
        device(wire.local),
      )
  }
  return out
}
