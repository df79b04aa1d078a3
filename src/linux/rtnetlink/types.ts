/**
 * Types of rtnetlink in the terms of `ip`: addresses and prefixes are text, interfaces are names, times are seconds.
 * `Rtnl` is the kernel's network configuration of one namespace; `Rtnetlink` is the real one, `FakeRtnl` one in memory.
 */

export type Family = 4 | 6

/** RFC 2863. `dormant` waits for authentication; `unknown` is what TUN and loopback say. */
export type OperState = 'unknown' | 'notpresent' | 'down' | 'lowerlayerdown' | 'testing' | 'dormant' | 'up'

export interface Link {
  readonly index: number
  readonly name: string
  /** `veth`, `bridge`, `tun`, …; undefined for hardware and loopback. */
  readonly kind: string | undefined
  /** Configured up (IFF_UP). */
  readonly up: boolean
  /** Has a carrier (IFF_LOWER_UP): a cable, an association, a veth whose peer is up. */
  readonly carrier: boolean
  readonly operState: OperState
  readonly loopback: boolean
  readonly mtu: number
  /** Hardware address in hexadecimal with colons; empty where there is none. */
  readonly mac: string
  readonly alias: string | undefined
  /** Of a VRF: the table that has the routes of its ports. */
  readonly vrfTable?: number
  /** Index of the bridge, bond or VRF it is a port of. */
  readonly master: number | undefined
  /** Largest super-packet the device takes from the stack, in bytes; undefined on old kernels. */
  readonly gsoMaxSize: number | undefined
  /** Its queueing discipline: `noqueue`, `fq_codel`, `fq`, …; `mq` has one for each hardware queue. */
  readonly queue?: string | undefined
  readonly rxBytes: number
  readonly txBytes: number
  readonly rxPackets: number
  readonly txPackets: number
}

/** Undefined fields stay as the kernel chooses. */
export interface LinkOptions {
  readonly mtu?: number
  readonly up?: boolean
  /** Hardware address. */
  readonly mac?: string
  readonly txQueueLength?: number
  readonly gsoMaxSize?: number
}

export interface NewLinkOptions extends LinkOptions {
  /**
   * Interface index, chosen by the kernel when absent. Where the two ends of a veth pair in different namespaces have the
   * same index, Linux takes them for hardware and may report a lost carrier up to a second late.
   */
  readonly index?: number
}

export type NewLink =
  | (NewLinkOptions & {
      readonly kind: 'veth'
      readonly name: string
      /** The other end; `netns` (name or path) puts it into another namespace at once. */
      readonly peer: NewLinkOptions & { readonly name: string; readonly netns?: string }
    })
  | (NewLinkOptions & { readonly kind: 'bridge' | 'dummy' | 'ifb'; readonly name: string })

export interface LinkChanges extends LinkOptions {
  /** New name; the link must be down on kernels before 6.2. */
  readonly rename?: string
  /** Moves the link to another namespace (name or path). Its addresses and routes are gone then. */
  readonly netns?: string
  readonly alias?: string
  /** Name of the bridge to join; null to leave it. */
  readonly master?: string | null
}

export interface Address {
  readonly link: string
  readonly index: number
  readonly family: Family
  readonly address: string
  readonly prefixLength: number
  /** The other end of a point-to-point address. */
  readonly peer: string | undefined
  readonly scope: 'global' | 'site' | 'link' | 'host' | 'nowhere'
  /** IPv6: duplicate address detection has not finished; sending from it fails. */
  readonly tentative: boolean
  /** Not for new connections: its preferred lifetime is over. */
  readonly deprecated: boolean
  /** IPv6 privacy address. */
  readonly temporary: boolean
  /** Seconds left when read; undefined: for ever. */
  readonly validSeconds: number | undefined
  readonly preferredSeconds: number | undefined
}

export interface AddressOptions {
  /** Skip duplicate address detection (IPv6): usable at once. */
  readonly noDad?: boolean
  /** Do not add the route of the prefix. */
  readonly noPrefixRoute?: boolean
  readonly peer?: string
  readonly validSeconds?: number
  readonly preferredSeconds?: number
}

export type RouteType = 'unicast' | 'local' | 'broadcast' | 'unreachable' | 'blackhole' | 'prohibit' | 'throw'

export interface RouteSpec {
  /** Prefix, address, or `default` (IPv4) or `default6`. */
  readonly to: string
  readonly via?: string
  readonly dev?: string
  /** Table number; 254 is main. */
  readonly table?: number
  /** Smaller wins. IPv6 without one gets 1024 from the kernel. */
  readonly metric?: number
  /** Preferred source address. */
  readonly source?: string
  /** The gateway is on `dev` whatever the addresses say. */
  readonly onlink?: boolean
  readonly type?: RouteType
  /** Path MTU that the route states, in bytes. */
  readonly mtu?: number
  /** Who made it (rtm_protocol); default 4, static. */
  readonly protocol?: number
}

export interface Route extends RouteSpec {
  readonly family: Family
  readonly table: number
  readonly type: RouteType
  readonly protocol: number
  /** The link is down, or has lost its carrier. */
  readonly dead: boolean
  /** All next hops where there are several; `via` and `dev` are those of the first. */
  readonly hops?: readonly NextHop[]
}

export interface NextHop {
  readonly via?: string
  readonly dev?: string
}

export interface RouteFilter {
  readonly family?: Family
  readonly table?: number
  readonly dev?: string
  readonly protocol?: number
}

/** Which route a packet would take: the kernel's own answer. */
export interface RouteQuery {
  readonly to: string
  readonly from?: string
  readonly mark?: number
  readonly oif?: string
  readonly iif?: string
  readonly uid?: number
  /** IP protocol number with ports, for rules that look at them. */
  readonly protocol?: number
  readonly sourcePort?: number
  readonly destinationPort?: number
}

export interface RuleSpec {
  readonly family: Family
  readonly priority: number
  /** Table to look up; or `action` instead. */
  readonly table?: number
  readonly action?: 'unreachable' | 'blackhole' | 'prohibit'
  readonly mark?: number
  /** Default all ones when `mark` is given. */
  readonly mask?: number
  readonly oif?: string
  readonly iif?: string
  /** Inclusive. */
  readonly uids?: readonly [number, number]
  /** Who made the rule (FRA_PROTOCOL): 2 the kernel, 3 `ip rule`; deleting with it deletes no other's. */
  readonly origin?: number
  /** IP protocol number: 6 TCP, 17 UDP. */
  readonly protocol?: number
  /** Inclusive. */
  readonly sourcePorts?: readonly [number, number]
  readonly destinationPorts?: readonly [number, number]
  readonly from?: string
  readonly to?: string
  /** Ignore routes found whose prefix is this long or shorter: 0 ignores default routes. */
  readonly suppressPrefixLength?: number
  readonly invert?: boolean
}

export interface Neighbour {
  readonly link: string
  readonly family: Family
  readonly address: string
  readonly mac: string | undefined
  readonly state:
    | 'incomplete'
    | 'reachable'
    | 'stale'
    | 'delay'
    | 'probe'
    | 'failed'
    | 'noarp'
    | 'permanent'
    | 'none'
}

export type Qdisc =
  /** `rate` in bits per second, `burst` in bytes, `limit` of its queue in bytes. */
  | { readonly kind: 'tbf'; readonly rate: number; readonly burst: number; readonly limit: number }
  /** Times in milliseconds, `loss` from 0 to 1, `limit` in packets. Not in every kernel. */
  | {
      readonly kind: 'netem'
      readonly delay?: number
      readonly jitter?: number
      readonly loss?: number
      readonly limit?: number
    }

export type RtnlEvent = RtnlChange & {
  /** Netlink port of who asked for the change: mostly the process id (`processOfPort`). Absent: the kernel, or not known. */
  readonly by?: number
}

export type RtnlChange =
  | { readonly type: 'link' | 'link-gone'; readonly link: Link }
  | { readonly type: 'address' | 'address-gone'; readonly address: Address }
  | { readonly type: 'route' | 'route-gone'; readonly route: Route }
  | { readonly type: 'rule' | 'rule-gone'; readonly rule: RuleSpec }
  /** Events were lost: read everything again. */
  | { readonly type: 'resync' }

export type WatchTopic = 'link' | 'address' | 'route' | 'rule'

/**
 * The network configuration of one namespace. All calls are synchronous and throw KernelError (EEXIST when adding what
 * is there) except that deleting what is not there returns false.
 */
export interface Rtnl {
  links(): Link[]
  /** By name or index; undefined when there is none. */
  link(which: string | number): Link | undefined
  createLink(link: NewLink): void
  setLink(name: string, changes: LinkChanges): void
  deleteLink(name: string): boolean

  addresses(filter?: { readonly link?: string; readonly family?: Family }): Address[]
  /** `address` with its prefix length: `192.0.2.1/24`. */
  addAddress(link: string, address: string, options?: AddressOptions): void
  deleteAddress(link: string, address: string): boolean

  routes(filter?: RouteFilter): Route[]
  addRoute(route: RouteSpec): void
  /** Adds, or takes the place of the route with the same prefix, table and metric. */
  replaceRoute(route: RouteSpec): void
  deleteRoute(route: RouteSpec): boolean
  /** Deletes what `filter` finds (a table must be given); returns how many. */
  flushRoutes(filter: RouteFilter & { readonly table: number }): number
  /** The route a packet would take; undefined when none (unreachable, blackhole and prohibit included). */
  lookup(query: RouteQuery): Route | undefined

  rules(family?: Family): RuleSpec[]
  addRule(rule: RuleSpec): void
  deleteRule(rule: RuleSpec): boolean

  neighbours(link?: string): Neighbour[]
  /** Forgets what was learned about a link's neighbours; returns how many entries. */
  flushNeighbours(link: string): number

  /** Sets the root qdisc of a link; undefined removes it. EOPNOTSUPP or ENOENT: not in this kernel. */
  setQdisc(link: string, qdisc: Qdisc | undefined): void

  /**
   * Calls back, on the main thread, for every change from now on, until `signal` aborts. Several events may come in one
   * turn of the event loop, in the kernel's order. After `resync` the caller lists what it needs again.
   */
  watch(
    topics: readonly WatchTopic[],
    callback: (event: RtnlEvent) => void,
    options?: { readonly signal?: AbortSignal },
  ): void
  close(): void
}
