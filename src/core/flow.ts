/** Words for flows: names of protocols, endpoints. The flow keys of the PAFT are anchoring's (tables/flow-key.ts). */
import { formatAddress } from './address.ts'

const NAMES: Readonly<Record<number, string>> = {
  1: 'icmp',
  6: 'tcp',
  17: 'udp',
  33: 'dccp',
  47: 'gre',
  50: 'esp',
  58: 'icmpv6',
  132: 'sctp',
  136: 'udplite',
}

/** `tcp`, `udp`, …; the number for protocols without a common name. */
export function protocolName(protocol: number): string {
  return NAMES[protocol] ?? String(protocol)
}

/** The number for a name of `protocolName` or for digits; undefined for anything else. */
export function protocolNumber(name: string): number | undefined {
  for (const [number, known] of Object.entries(NAMES)) if (known === name) return Number(number)
  return /^\d{1,3}$/.test(name) && Number(name) < 256 ? Number(name) : undefined
}

/** `10.0.0.1:80`, `[2001:db8::1]:80`. */
export function formatEndpoint(address: Uint8Array, port: number): string {
  const text = formatAddress(address)
  return address.length === 4 ? `${text}:${port}` : `[${text}]:${port}`
}
