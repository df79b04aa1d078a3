/**
 * Trusted networks, on which the tunnel is idle ([host] trusted). Any network can have a given subnet or gateway address;
 * a gateway's hardware address can be imitated only by somebody who knows it.
 */
import {
  contains,
  formatAddress,
  formatPrefix,
  type Prefix,
  parseAddress,
  parsePrefix,
} from '../core/address.ts'
import { type Decoded, decoded, malformed } from '../core/result.ts'

/** All of it holds. */
export type Trust = readonly Criterion[]

type Criterion =
  | { readonly kind: 'subnet'; readonly prefix: Prefix }
  | { readonly kind: 'gateway'; readonly address: Uint8Array }
  | { readonly kind: 'mac'; readonly mac: string }

/** Facts of an access that are compared. */
export interface TrustFacts {
  readonly addresses: readonly { readonly address: string }[]
  readonly gateways: readonly { readonly via: string | undefined }[]
}

export function parseTrust(text: string): Decoded<Trust> {
  const out: Criterion[] = []
  for (const part of text.split('+')) {
    const [, kind, value] = /^(subnet|gateway):(.+)$/.exec(part) ?? []
    if (kind === undefined || value === undefined)
      return malformed(`"${part}" is not subnet:ADDRESS/LENGTH, gateway:ADDRESS or gateway:MAC`)
    if (kind === 'subnet') {
      const prefix = parsePrefix(value)
      if (!prefix.ok) return malformed(`"${part}": ${prefix.reason}`)
      out.push({ kind, prefix: prefix.value })
    } else if (/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/i.test(value))
      out.push({ kind: 'mac', mac: value.toLowerCase() })
    else {
      const address = parseAddress(value)
      if (!address.ok) return malformed(`"${part}": neither an address nor a hardware address`)
      out.push({ kind: 'gateway', address: address.value })
    }
  }
  return decoded(out)
}

export function formatTrust(trust: Trust): string {
  return trust
    .map((each) => {
      if (each.kind === 'subnet') return `subnet:${formatPrefix(each.prefix)}`
      return `gateway:${each.kind === 'mac' ? each.mac : formatAddress(each.address)}`
    })
    .join('+')
}

/** `neighbours` are asked only where a hardware address is. */
export function isTrusted(
  trust: Trust,
  { addresses, gateways }: TrustFacts,
  neighbours: () => readonly { readonly address: string; readonly mac: string | undefined }[],
): boolean {
  const vias = gateways.flatMap(({ via }) => via ?? [])
  return trust.every((each) => {
    if (each.kind === 'subnet') return addresses.some(({ address }) => isIn(each.prefix, address))
    if (each.kind === 'gateway') return vias.includes(formatAddress(each.address))
    return neighbours().some(({ address, mac }) => vias.includes(address) && mac === each.mac)
  })
}

function isIn(prefix: Prefix, text: string): boolean {
  const address = parseAddress(text)
  return address.ok && address.value.length === prefix.address.length && contains(prefix, address.value)
}
