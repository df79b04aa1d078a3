/**
 * Network address translators of the lab, as nftables text. Kinds in the words of RFC 4787:
 *
 *   endpoint-independent  one mapping per inside port, and anyone outside may use it ("full cone")
 *   port-restricted       one mapping per inside port, only answers come in; what Linux masquerading does
 *   symmetric             a new outside port for every destination, drawn at random; only answers come in
 *   counting              the same, but each new mapping has the next port
 *
 * What comes in unasked is dropped, also where it is for the translator itself: an entry of its would take the port that
 * masquerading keeps, and every mapping to that address would get another.
 *
 * IPv6 is routed, with the filter of a home router: outbound, and answers.
 */

export const NAT_KINDS = ['endpoint-independent', 'port-restricted', 'symmetric', 'counting'] as const
export type NatKind = (typeof NAT_KINDS)[number]

export interface NatSpec {
  readonly kind: NatKind
  /** Interface towards the outside. */
  readonly outside: string
  /** Idle UDP mappings go after this many seconds; default the kernel's. */
  readonly udpTimeoutS?: number
}

/** Table name; the namespace is the lab's own, so it collides with nothing. */
export const NAT_TABLE = 'gw_nat'

/** A counting NAT has so many ports, from this one on. */
const COUNTED = 4000
const FIRST_COUNTED = 20_000

/** A map: the number alone would come out with its bytes the other way round. */
function countedPorts(): string {
  return Array.from({ length: COUNTED }, (_, i) => `${i} : ${FIRST_COUNTED + i}`).join(', ')
}

/** The ruleset that makes a namespace this kind of NAT. Protocols go by number: a bare machine has no /etc/protocols. */
export function natRules(nat: NatSpec): string {
  const out = JSON.stringify(nat.outside)
  const masquerade = nat.kind === 'symmetric' ? 'masquerade fully-random' : 'masquerade'
  const counted =
    nat.kind === 'counting'
      ? `
    oifname ${out} meta l4proto 17 masquerade to :numgen inc mod ${COUNTED} map { ${countedPorts()} }`
      : ''
  // Masquerading keeps the source port where it can, so the port a host sent from is the port it is reached at.
  const learn =
    nat.kind === 'endpoint-independent'
      ? `
    oifname ${out} meta l4proto 17 update @open { udp sport : ip saddr }`
      : ''
  const open =
    nat.kind === 'endpoint-independent'
      ? `
  map open { type inet_service : ipv4_addr; flags dynamic, timeout; timeout ${nat.udpTimeoutS ?? 120}s; size 65535; }
  chain inbound {
    type nat hook prerouting priority dstnat; policy accept;
    iifname ${out} ip protocol 17 dnat to udp dport map @open
  }`
      : ''
  return `table ip ${NAT_TABLE} {${open}
  chain outbound {
    type filter hook forward priority filter; policy accept;${learn}
    iifname ${out} ct state new ct status & dnat == 0 drop
    iifname ${out} ct state invalid drop
  }
  chain self {
    type filter hook input priority filter; policy accept;
    iifname ${out} meta l4proto 17 ct state new drop
  }
  chain translate {
    type nat hook postrouting priority srcnat; policy accept;${counted}
    oifname ${out} ${masquerade}
  }
}
table ip6 ${NAT_TABLE} {
  chain guard {
    type filter hook forward priority filter; policy accept;
    iifname ${out} meta l4proto 58 accept
    iifname ${out} ct state { new, invalid } drop
  }
}
`
}
