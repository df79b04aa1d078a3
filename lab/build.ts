/**
 * Builds a topology: namespaces, links, addresses, routes, translators. `Lab` is what is up; closing it removes all of it,
 * and a lab that was killed is removed by the next one (ownership.ts).
 */
import { usageError } from '../src/core/errors.ts'
import { namespacePath } from '../src/linux/netns.ts'
import { Nft } from '../src/linux/nft.ts'
import { Rtnetlink } from '../src/linux/rtnetlink/index.ts'
import type { Rtnl } from '../src/linux/rtnetlink/types.ts'
import { KernelSysctls } from '../src/linux/sysctl.ts'
import { Programs } from './hosts.ts'
import { type Direction, EmulatedLinks } from './links/links.ts'
import { natRules } from './nat.ts'
import { Ownership } from './ownership.ts'
import { type HostSpec, type LinkSpec, namespaceOf, type TopologySpec } from './topology.ts'
import type { LabDescription, LinkConditions, RunningLab } from './types.ts'

const MTU = 1500
/** Frames that a device holds for the emulator: a burst of several super-packets, cut. */
const DEVICE_QUEUE = 8192
const BRIDGE = 'br0'

export interface BuildOptions {
  readonly seed?: number
  readonly links?: Readonly<Record<string, Partial<LinkConditions>>>
}

export class Lab implements RunningLab {
  readonly spec: TopologySpec
  readonly programs: Programs
  readonly links: EmulatedLinks
  readonly #ownership: Ownership
  readonly #rtnl = new Map<string, Rtnl>()
  #closing: Promise<void> | undefined

  private constructor(spec: TopologySpec, ownership: Ownership) {
    this.spec = spec
    this.#ownership = ownership
    this.programs = new Programs(ownership)
    this.links = new EmulatedLinks((name) => this.#tellCarrier(name))
  }

  /** Builds it all, or removes what it had built and rejects. */
  static async build(spec: TopologySpec, options: BuildOptions = {}): Promise<Lab> {
    const emulated = spec.links.filter((link) => link.emulated === true).map((link) => link.name)
    for (const name of Object.keys(options.links ?? {})) {
      if (!emulated.includes(name))
        throw usageError(`${spec.name} has no emulated link ${name}; it has ${emulated.join(', ') || 'none'}`)
    }
    const lab = new Lab(spec, new Ownership(Object.keys(spec.hosts).map(namespaceOf)))
    try {
      await lab.#build(options)
      return lab
    } catch (error) {
      await lab.close()
      throw error
    }
  }

  get description(): LabDescription {
    const hosts: Record<string, { netns: string; addresses: Record<string, readonly string[]> }> = {}
    for (const role of Object.keys(this.spec.hosts)) hosts[role] = { netns: namespaceOf(role), addresses: {} }
    for (const link of this.spec.links) {
      for (const end of link.ends) hosts[end.host]!.addresses[end.iface] = end.addresses ?? []
    }
    return {
      topology: this.spec.name,
      hosts,
      links: Object.fromEntries(
        this.spec.links.map(({ name, ends: [first, second], emulated }) => [
          name,
          {
            ends: [`${first.host} ${first.iface}`, `${second.host} ${second.iface}`] as const,
            emulated: emulated === true,
          },
        ]),
      ),
    }
  }

  /** The network configuration of a host. */
  rtnl(role: string): Rtnl {
    let rtnl = this.#rtnl.get(role)
    if (rtnl === undefined) {
      rtnl = new Rtnetlink(namespaceOf(role))
      this.#rtnl.set(role, rtnl)
    }
    return rtnl
  }

  /** An empty folder that goes with the lab. */
  createScratch(): string {
    return this.#ownership.createScratch()
  }

  setLink(name: string, change: Partial<LinkConditions>, direction: Direction = 'both'): void {
    this.links.set(name, change, direction)
  }

  /** Ends programs, removes links and namespaces. Repeatable. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #build(options: BuildOptions): Promise<void> {
    for (const [role, host] of Object.entries(this.spec.hosts)) this.#createHost(role, host)
    for (const [index, link] of this.spec.links.entries())
      await this.#createLink(link, (options.seed ?? 1) + 2 * index, options.links?.[link.name])
    await this.#carriersUp()
    for (const [role, host] of Object.entries(this.spec.hosts)) {
      for (const route of host.routes ?? []) this.rtnl(role).addRoute(route)
      if (host.nat !== undefined) new Nft(namespaceOf(role)).run(natRules(host.nat))
    }
  }

  #createHost(role: string, host: HostSpec): void {
    const netns = namespaceOf(role)
    this.#ownership.createNamespace(netns)
    const sysctls = new KernelSysctls(netns)
    // Addresses are given by hand and unique: no waiting until IPv6 has made sure.
    sysctls.set('net.ipv6.conf.default.accept_dad', 0)
    sysctls.set('net.ipv6.conf.default.dad_transmits', 0)
    sysctls.set('net.ipv6.conf.default.accept_ra', 0)
    // The same on every machine. BBR, the default of some, falls silent every ten seconds to measure.
    const allowed = sysctls.get('net.ipv4.tcp_allowed_congestion_control')?.split(' ') ?? []
    sysctls.set('net.ipv4.tcp_congestion_control', allowed.includes('cubic') ? 'cubic' : 'reno')
    if (host.forward === true) {
      sysctls.set('net.ipv4.ip_forward', 1)
      sysctls.set('net.ipv6.conf.all.forwarding', 1)
    }
    this.rtnl(role).setLink('lo', { up: true })
    if (host.bridge === true) this.rtnl(role).createLink({ kind: 'bridge', name: BRIDGE, up: true })
  }

  async #createLink(link: LinkSpec, seed: number, over: Partial<LinkConditions> = {}): Promise<void> {
    const [first, second] = link.ends
    const mtu = link.mtu ?? MTU
    if (link.emulated === true) {
      await this.links.open(
        link.name,
        [first, second].map(({ host, iface }) => ({
          netns: namespacePath(namespaceOf(host)),
          iface,
        })) as never,
        seed,
      )
    } else {
      this.rtnl(first.host).createLink({
        kind: 'veth',
        name: first.iface,
        mtu,
        peer: { name: second.iface, netns: namespaceOf(second.host), mtu },
      })
    }
    for (const end of link.ends) {
      const rtnl = this.rtnl(end.host)
      rtnl.setLink(end.iface, {
        mtu,
        ...(link.emulated === true ? { txQueueLength: DEVICE_QUEUE } : {}),
        ...(this.spec.hosts[end.host]?.bridge === true ? { master: BRIDGE } : {}),
        up: true,
      })
      for (const address of end.addresses ?? []) rtnl.addAddress(end.iface, address, { noDad: true })
    }
    if (link.emulated === true) this.links.set(link.name, { ...link.conditions, ...over })
  }

  /** The kernel tells of a new carrier up to a second late; a bridge forwards nothing until then. */
  async #carriersUp(): Promise<void> {
    const ends = this.spec.links
      .filter((link) => this.links.has(link.name) && this.links.conditions(link.name)[0].state !== 'down')
      .flatMap((link) => link.ends)
    for (let attempt = 0; attempt < 150; attempt++) {
      if (ends.every(({ host, iface }) => this.rtnl(host).link(iface)?.operState === 'up')) return
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  /**
   * The kernel holds events of carriers back for up to a second when the machine has had others; asking for a link makes
   * it tell (since 5.19). A lost link is then an event at once, as it is on a machine with nothing else to do.
   */
  #tellCarrier(name: string): void {
    if (this.#closing !== undefined) return
    for (const { host, iface } of this.spec.links.find((link) => link.name === name)?.ends ?? [])
      this.rtnl(host).link(iface)
  }

  async #close(): Promise<void> {
    await this.programs.stopAll()
    await this.links.close()
    for (const rtnl of this.#rtnl.values()) rtnl.close()
    this.#ownership.release()
  }
}
