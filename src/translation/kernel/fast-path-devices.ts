/**
 * Where the kernel can (tcx, Linux 6.6), TCP over IPv4 is translated on the devices instead of in nf_tables: a third of the
 * extra cost, because the stack keeps to the routes and sockets that it has at hand. All packets are taken as they arrive. Those
 * that leave are taken if the routes lead the addresses that the socket knows the same way as those on the wire;
 * else nf_tables rewrites them, and they are routed again.
 *
 * Not where reverse-path filters are strict: they would compare the addresses of the socket with the device. Nor where
 * connections are tracked: tracking would see one that has moved in two forms, first that of nf_tables.
 *
 * To put a program on a device takes the kernel tens of milliseconds, more than a handover: `cover` and `uncover` are for
 * afterwards, and nf_tables translates meanwhile. `add` comes before its transaction and `trim` after it: between them both
 * know a flow that goes from one to the other, which the second then does not find.
 */

import { concat, equal } from '../../core/bytes.ts'
import { Protocol } from '../../core/ip.ts'
import { closeFd, KernelError } from '../../linux/libc.ts'
import { inNamespace } from '../../linux/netns.ts'
import type { Rtnl } from '../../linux/rtnetlink/types.ts'
import {
  attachTcx,
  type BpfMap,
  createHash,
  detachTcx,
  loadProgram,
  putElements,
  removeElement,
  Tcx,
  tcxPrograms,
} from '../../linux/tcx.ts'
import type { Compiled, CompiledFamily, Ip, SocketRow } from '../tables.ts'
import { AddressBytes, hostOrder } from './elements.ts'
import { FAST_MAPS, type FastMap, fastPathProgram } from './fast-path-program.ts'

const MOST_FLOWS = 131_072
const { TCP } = Protocol
const NAME = { arriving: 'godwit_fastin', leaving: 'godwit_fastout' } as const
const WAYS = ['arriving', 'leaving'] as const
type Way = (typeof WAYS)[number]
const WHERE = { arriving: Tcx.INGRESS, leaving: Tcx.EGRESS } as const
const NAMES = Object.keys(FAST_MAPS) as FastMap[]

interface Element {
  /** The key as a key of JavaScript. */
  readonly text: string
  readonly key: Uint8Array
  readonly value: Uint8Array
}
type Share = Readonly<Record<FastMap, ReadonlyMap<string, Element>>>

interface Prepared {
  readonly maps: Readonly<Record<FastMap, BpfMap>>
  /** Descriptors of the programs, by direction and whether the device has Ethernet headers. */
  readonly programs: Map<string, number>
  /** Devices with the programs, by index. */
  readonly devices: Set<number>
}

export interface FastPathDevicesInit {
  readonly netns: string | undefined
  /** Whether an address is one of this host's, wherever it is kept. */
  readonly isOwn: (ip: Ip) => boolean
}

export class FastPathDevices {
  readonly #rtnl: Rtnl
  readonly #init: FastPathDevicesInit
  /** What each host contributes, by HID. */
  readonly #hosts = new Map<number, Share>()
  /** Which hosts want an element, by the text of its key: the one with the highest number has it. */
  readonly #claims: Readonly<Record<FastMap, Map<string, number[]>>> = perMap(() => new Map())
  /** To be looked at again by `trim`. */
  readonly #left: Readonly<Record<FastMap, Map<string, Element>>> = perMap(() => new Map())
  readonly #flows = new WeakMap<
    SocketRow,
    { readonly hid: number; readonly out: Element; readonly in: Element }
  >()
  readonly #addresses = new AddressBytes()
  #prepared: Prepared | undefined
  /** Whether programs that an earlier run left have been dealt with. */
  #known = false

  constructor(rtnl: Rtnl, init: FastPathDevicesInit) {
    this.#rtnl = rtnl
    this.#init = init
  }

  /**
   * Takes over the flows of these hosts that `compiled` gives it; `devices` has those of own addresses. Throws KernelError
   * for what the kernel refuses.
   */
  add(
    hosts: readonly (readonly [hid: number, compiled: Compiled])[],
    devices: ReadonlyMap<Ip, string>,
  ): void {
    const indexes = new Map<Ip, number>()
    const device = (ip: Ip): number => {
      let index = indexes.get(ip)
      if (index === undefined) {
        const name = devices.get(ip)
        index = name === undefined ? 0 : (this.#rtnl.link(name)?.index ?? 0)
        indexes.set(ip, index)
      }
      return index
    }
    const come = perMap((): Element[] => [])
    for (const [hid, compiled] of hosts) {
      const wanted = this.#encode(hid, compiled[4], device)
      const before = this.#hosts.get(hid)
      for (const name of NAMES) {
        for (const element of before?.[name].values() ?? [])
          if (!wanted[name].has(element.text)) this.#leave(name, hid, element)
        for (const element of wanted[name].values()) {
          const stood = before?.[name].get(element.text)
          if (stood !== undefined && equal(stood.value, element.value)) continue
          const claims = this.#claims[name].get(element.text) ?? []
          if (stood === undefined) claims.push(hid)
          this.#claims[name].set(element.text, claims)
          if (claims.every((other) => other <= hid)) come[name].push(element)
        }
      }
      if (NAMES.every((name) => wanted[name].size === 0)) this.#hosts.delete(hid)
      else this.#hosts.set(hid, wanted)
    }
    if (this.#hosts.size === 0) return
    const { maps } = this.#prepare()
    // What is looked up last comes first.
    for (const name of NAMES.toReversed()) put(maps[name], come[name])
  }

  #leave(name: FastMap, hid: number, element: Element): void {
    const { text } = element
    const claims = this.#claims[name].get(text)?.filter((other) => other !== hid) ?? []
    if (claims.length > 0) this.#claims[name].set(text, claims)
    else this.#claims[name].delete(text)
    this.#left[name].set(text, element)
  }

  /** Lets go of what nobody wants any more. */
  trim(): void {
    const maps = this.#prepared?.maps
    for (const name of NAMES) {
      for (const [text, { key }] of this.#left[name]) {
        const claims = this.#claims[name].get(text)
        const heir = claims && this.#hosts.get(Math.max(...claims))?.[name].get(text)
        if (maps === undefined) continue
        if (heir === undefined) removeElement(maps[name], key)
        else put(maps[name], [heir])
      }
      this.#left[name].clear()
    }
  }

  /** Whether it has any flows. */
  get used(): boolean {
    return this.#hosts.size > 0
  }

  /** Forgets all flows; `trim` takes them out. */
  clear(): void {
    for (const [hid, share] of this.#hosts)
      for (const name of NAMES) for (const element of share[name].values()) this.#leave(name, hid, element)
    this.#hosts.clear()
  }

  /**
   * Makes maps and programs ahead of the move that needs them, which takes tens of milliseconds. Throws KernelError when the
   * kernel refuses them.
   */
  prepare(): void {
    const prepared = this.#prepare()
    for (const way of WAYS) this.#program(prepared, way, true)
  }

  #prepare(): Prepared {
    if (this.#prepared !== undefined) return this.#prepared
    const maps = perMap((name) =>
      createHash(`godwit_${name.replace('_', '')}`, FAST_MAPS[name].key, FAST_MAPS[name].value, MOST_FLOWS),
    )
    this.#prepared = { maps, programs: new Map(), devices: new Set() }
    return this.#prepared
  }

  #program({ maps, programs }: Prepared, way: Way, ethernet: boolean): number {
    const kind = `${way} ${ethernet}`
    let program = programs.get(kind)
    if (program === undefined) {
      const code = fastPathProgram({ way, ethernet, maps: perMap((name) => maps[name].fd) })
      program = loadProgram(NAME[way], code, WHERE[way])
      programs.set(kind, program)
    }
    return program
  }

  /** Whether the programs are on any device. */
  get attached(): boolean {
    return (this.#prepared?.devices.size ?? 0) > 0
  }

  covers(device: string): boolean {
    const index = this.#rtnl.link(device)?.index
    return index !== undefined && this.#prepared?.devices.has(index) === true
  }

  /** Puts the programs on these devices. True when one had none. */
  cover(devices: Iterable<string>): boolean {
    const prepared = this.#prepare()
    const before = prepared.devices.size
    for (const name of new Set(devices)) {
      const link = this.#rtnl.link(name)
      if (link === undefined || prepared.devices.has(link.index)) continue
      for (const way of WAYS) this.#attach(link.index, way, this.#program(prepared, way, link.mac !== ''))
      prepared.devices.add(link.index)
    }
    this.#forgetEarlier(prepared.devices)
    return prepared.devices.size > before
  }

  /** Takes the programs off all devices. */
  uncover(): void {
    if (this.attached) this.cleanUp()
    else this.#forgetEarlier(new Set())
  }

  #forgetEarlier(but: ReadonlySet<number>): void {
    if (!this.#known) this.#detach(but)
    this.#known = true
  }

  /** The new program is there before an old one goes. */
  #attach(index: number, way: Way, program: number): void {
    inNamespace(this.#init.netns, () => {
      const before = tcxPrograms(index, WHERE[way])
      attachTcx(index, WHERE[way], program)
      detachTcx(index, WHERE[way], NAME[way], before)
    })
  }

  /** Lets go of maps and programs; what is on devices stays there. */
  close(): void {
    const prepared = this.#prepared
    this.#prepared = undefined
    for (const fd of prepared?.programs.values() ?? []) closeFd(fd)
    for (const { fd } of Object.values(prepared?.maps ?? {})) closeFd(fd)
  }

  /** Takes the programs off all devices, those of an earlier run too. */
  cleanUp(): void {
    this.#detach(new Set())
    this.#prepared?.devices.clear()
  }

  #detach(but: ReadonlySet<number>): void {
    for (const { index } of this.#rtnl.links())
      if (!but.has(index))
        inNamespace(this.#init.netns, () => {
          try {
            for (const way of WAYS) detachTcx(index, WHERE[way], NAME[way])
          } catch (error) {
            if (!(error instanceof KernelError)) throw error // a kernel without them, or a device that has just gone
          }
        })
  }

  /** What a host's flows become. One whose foreign address is now an own one the stack would take for forged. */
  #encode(hid: number, compiled: CompiledFamily, device: (ip: Ip) => number): Share {
    const out = perMap(() => new Map<string, Element>())
    const add = (name: FastMap, element: Element): void => {
      out[name].set(element.text, element)
    }
    for (const flow of compiled.fast_flow.values()) add('fast_flow', this.#flow(flow).out)
    for (const { bound, wire } of compiled.fast_pair.values())
      add(
        'fast_pair',
        element(
          this.#pair(bound.local, bound.foreign),
          concat(this.#pair(wire.local, wire.foreign), hostOrder(device(wire.local))),
        ),
      )
    for (const flow of compiled.in_flow.values())
      if (flow.protocol === TCP && !this.#init.isOwn(flow.foreign)) add('in_flow', this.#flow(flow).in)
    if (out.in_flow.size === 0) return out
    for (const { pair } of compiled.in_pair.values())
      add('in_pair', element(this.#pair(pair.foreign, pair.local), hostOrder(hid)))
    return out
  }

  /** The elements of a flow, which do not change: made once. */
  #flow(flow: SocketRow): { readonly out: Element; readonly in: Element } {
    const known = this.#flows.get(flow)
    if (known?.hid === flow.hid) return known
    const { localPort, foreignPort } = flow
    const out = concat(this.#pair(flow.local, flow.foreign), ports(localPort, foreignPort))
    const into = concat(hostOrder(flow.hid), ports(foreignPort, localPort))
    const made = {
      hid: flow.hid,
      out: element(out, NOTHING),
      in: element(into, this.#pair(flow.foreign, flow.local)),
    }
    this.#flows.set(flow, made)
    return made
  }

  #pair(source: Ip, destination: Ip): Uint8Array {
    return concat(this.#addresses.of(source), this.#addresses.of(destination))
  }
}

const NOTHING = new Uint8Array(FAST_MAPS.fast_flow.value)

function perMap<T>(make: (name: FastMap) => T): Record<FastMap, T> {
  return Object.fromEntries(NAMES.map((name) => [name, make(name)])) as Record<FastMap, T>
}

function element(key: Uint8Array, value: Uint8Array): Element {
  return { text: textOf(key), key, value }
}

function textOf(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.length).toString('latin1')
}

function put(map: BpfMap, elements: readonly Element[]): void {
  if (elements.length === 0) return
  const keys = new Uint8Array(map.keyLength * elements.length)
  const values = new Uint8Array(map.valueLength * elements.length)
  for (const [i, { key, value }] of elements.entries()) {
    keys.set(key, i * map.keyLength)
    values.set(value, i * map.valueLength)
  }
  putElements(map, keys, values)
}

function ports(source: number, destination: number): Uint8Array {
  return Uint8Array.of(source >> 8, source & 0xff, destination >> 8, destination & 0xff)
}
