/**
 * What `router init`, `router card` and `router add` read and write. Two gateways get to know each other by their cards: one
 * line of text each, with a public key, the subnets behind the gateway and where it is reached, if it is. No secret.
 *
 *   godwit-site1.BASE64URL(JSON).BASE64URL(first 6 bytes of SHA-256 of what stands before)
 */

import { existsSync, readFileSync } from 'node:fs'
import * as z from 'zod'
import { openText, sealText } from '../../anchoring/invitation.ts'
import { parsePrefix } from '../../core/address.ts'
import { GodwitError, usageError } from '../../core/errors.ts'
import { decodeKey, encodeKey, publicKeyOf } from '../../crypto/keys.ts'
import { readPrivateKey, writeSecret } from '../../mechanism/files.ts'
import { parseHostPort } from '../../mechanism/schema.ts'
import { parseConfig } from '../configuration/config.ts'
import { addTable, tomlString } from '../configuration/toml.ts'
import type { State } from '../stores/state.ts'
import { keyFileOf, loadRouterConfig } from './anchoring.ts'

const PREFIX = 'godwit-site1.'

const content = z.object({
  public_key: z.string().refine((text) => decodeKey(text).ok),
  subnets: z.array(z.string().refine((text) => parsePrefix(text).ok)).min(1),
  endpoint: z
    .string()
    .refine((text) => parseHostPort(text).ok)
    .optional(),
})

export interface RouterInitOptions {
  /** `HOST:PORT` of a gateway that others reach. */
  readonly endpoint?: string
  /** Behind this gateway. */
  readonly subnets: readonly string[]
  /** Interfaces of a mobile router, most preferred first. */
  readonly accesses: readonly string[]
}

/** Writes a router's configuration and key, never over an existing one. Returns the file and this gateway's card. */
export function initRouter(state: State, options: RouterInitOptions): { config: string; card: string } {
  const { endpoint, subnets, accesses } = options
  if (subnets.length === 0) throw usageError('--subnet: name at least one subnet behind this gateway')
  for (const subnet of subnets) {
    const parsed = parsePrefix(subnet)
    if (!parsed.ok) throw usageError(`--subnet ${subnet}: ${parsed.reason}`)
  }
  if (endpoint === undefined && accesses.length === 0)
    throw usageError('a mobile router needs --access, a gateway at home --endpoint')
  const parsed = endpoint === undefined ? undefined : parseHostPort(endpoint)
  if (parsed !== undefined && !parsed.ok) throw usageError(`--endpoint: ${parsed.reason}`)
  if (existsSync(state.configFile)) {
    throw new GodwitError('CONFIG_EXISTS', `${state.configFile} exists already`, {
      kind: 'usage',
      hint: 'edit it, or give this router its own state folder with --state DIR',
    })
  }
  state.ensurePrivateKey()
  const lines = [
    '# A router of godwit. Every key: docs/configuration.md; check with: godwit config check',
    '',
    '[router]',
    ...(endpoint === undefined ? [] : [`endpoint = ${tomlString(endpoint)}`]),
    ...(accesses.length === 0 ? [] : [`accesses = ${list(accesses)}`]),
    `subnets = ${list(subnets)}`,
  ]
  write(state, `${lines.join('\n')}\n`)
  return { config: state.configFile, card: routerCard(state) }
}

function ownKey(state: State, config: Parameters<typeof keyFileOf>[1]): string {
  return encodeKey(publicKeyOf(readPrivateKey(keyFileOf(state, config))))
}

/** The line that makes this gateway known to another. */
export function routerCard(state: State): string {
  const config = loadRouterConfig(state)
  const { endpoint, subnets } = config.router
  if (subnets.length === 0) {
    throw new GodwitError(
      'CARD_INVALID',
      `${state.configFile} does not list the subnets behind this gateway`,
      {
        kind: 'usage',
        hint: 'add subnets = ["10.1.0.0/24"] to [router]',
      },
    )
  }
  const public_key = ownKey(state, config)
  return sealText(PREFIX, { public_key, subnets, ...(endpoint !== undefined && { endpoint }) })
}

/**
 * Adds the site of a card to the configuration; throws if its key is known already. `via`: more subnets that are reached
 * through it, those of other sites at the same gateway.
 */
export function addSite(
  state: State,
  name: string,
  card: string,
  via: readonly string[] = [],
): { site: string; subnets: readonly string[]; config: string } {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(name))
    throw usageError(`"${name}" is not a valid site name`, { hint: 'letters, digits, ".", "_" and "-"' })
  const hint = 'get it again, on the other gateway: godwit router card'
  const opened = openText(PREFIX, card, 'a card')
  if (!opened.ok) throw new GodwitError('CARD_INVALID', opened.reason, { kind: 'usage', hint })
  const parsed = content.safeParse(opened.value)
  if (!parsed.success)
    throw new GodwitError('CARD_INVALID', 'this version of godwit does not know the version of the card', {
      kind: 'usage',
      hint,
    })
  const config = loadRouterConfig(state)
  const { router } = config
  const { public_key, endpoint, subnets } = parsed.data
  if (public_key === ownKey(state, config))
    throw usageError("this is this gateway's own card", {
      hint: 'give it to the other gateway; here, add the card that `godwit router card` prints there',
    })
  const known = router.site.find((site) => site.name === name || site.public_key === public_key)
  if (known !== undefined)
    throw usageError(`${state.configFile} has this site already: ${known.name}`, {
      hint: 'to change it, edit its [[router.site]]',
    })
  // A gateway without accesses goes nowhere: others come to it.
  const reached = router.accesses.length === 0 ? undefined : endpoint
  if (reached === undefined && router.endpoint === undefined && router.listen_port === undefined)
    throw usageError('neither gateway can be reached by the other', {
      hint: 'one of the two needs an endpoint: godwit router init --endpoint HOST:PORT',
    })
  for (const text of via) {
    const prefix = parsePrefix(text)
    if (!prefix.ok) throw usageError(`--via ${text}: ${prefix.reason}`)
  }
  const all = [...subnets, ...via]
  const text = addTable(readFileSync(state.configFile, 'utf8'), ['router', 'site'], {
    name,
    public_key,
    ...(reached === undefined ? {} : { endpoint: reached }),
    subnets: all,
  })
  write(state, text)
  return { site: name, subnets: all, config: state.configFile }
}

function write(state: State, text: string): void {
  const check = parseConfig(text)
  if ('faults' in check) {
    const { path, reason } = check.faults[0]!
    throw usageError(`${path}: ${reason}`)
  }
  writeSecret(state.configFile, text)
}

function list(values: readonly string[]): string {
  return `[${values.map(tomlString).join(', ')}]`
}
