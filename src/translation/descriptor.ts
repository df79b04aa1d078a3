/** DIME as the daemon composes it. */
import { usageError } from '../core/errors.ts'
import { decodeKey } from '../crypto/keys.ts'
import type { ConfigWith, MechanismDescriptor } from '../mechanism/descriptor.ts'
import { DEVICE_PROGRAMS, NETWORK_ADMIN, TUN } from '../mechanism/needs.ts'
import type { Services } from '../mechanism/services.ts'
import { type DimeConfig, dimeSections } from './config.ts'
import { TranslationMechanism } from './mechanism.ts'

/** The private keys of address translation, in the state (`godwit dime key`). */
export const DIME_KEY_FILE = 'dime.keys'

export const dimeDescriptor: MechanismDescriptor<typeof dimeSections> = {
  name: 'translation',
  role: 'dime',
  summary: 'Connections with hosts that also run godwit move by address translation, without a tunnel.',
  sections: dimeSections,
  claims: () => false,
  runsBeside: ({ dime }) => dime.enabled,
  needsNoFile: true,
  alone: true,
  compose: composeDime,
  needs: [NETWORK_ADMIN, TUN, DEVICE_PROGRAMS],
}

function composeDime({ dime }: ConfigWith<typeof dimeSections>, services: Services): TranslationMechanism {
  const { files } = services
  return new TranslationMechanism(
    {
      port: dime.port,
      interfaces: dime.interfaces,
      watchUdp: dime.watch_udp,
      fastPath: dime.fast_path,
      keyFile: files.file(DIME_KEY_FILE),
      knownKeys: dime.known_keys.map((path) => files.resolve(path)),
      directory: dime.directory,
      resolver: dime.resolver,
      names: dime.names,
      stateFile: files.file('dime.json'),
      ihmp: {
        unsigned: dime.unsigned,
        advertise: dime.advertise,
        crossing: dime.cross_families,
        holdMs: dime.hold_s * 1000,
        nats: natKeys(dime.nat_keys),
      },
    },
    services,
  )
}

function natKeys(keys: DimeConfig['nat_keys']): Uint8Array[] | 'any' {
  if (keys === 'any') return keys
  return keys.map((text) => {
    const key = decodeKey(text)
    if (key.ok) return key.value
    throw usageError(`nat_keys: ${key.reason}`)
  })
}
