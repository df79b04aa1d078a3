/** Every subject, ours first, and which of them this machine can measure. */
import { godwit } from './godwit.ts'
import { nebula } from './nebula.ts'
import { openvpn } from './openvpn.ts'
import type { Subject } from './subject.ts'
import { veth } from './veth.ts'
import { wireguardGo, wireguardGoOffloads } from './wireguard-go.ts'

export const OURS = 'godwit'

/** Those whose figures are quoted for every family and way. */
export const main: readonly Subject[] = [godwit, veth, wireguardGoOffloads]

export const all: readonly Subject[] = [...main, wireguardGo, openvpn, nebula]

/** Subjects that are installed, and for the others the reason to print. */
export function available(wanted: readonly Subject[]): {
  subjects: Subject[]
  skipped: Record<string, string>
} {
  const subjects: Subject[] = []
  const skipped: Record<string, string> = {}
  for (const subject of wanted) {
    const reason = subject.missing()
    if (reason === undefined) subjects.push(subject)
    else skipped[subject.name] = reason
  }
  return { subjects, skipped }
}
