/**
 * Building blocks for sections of the configuration. Each mechanism defines its sections in its own folder (`config.ts`);
 * the shared sections are in host/configuration/schema.ts.
 */
import * as z from 'zod'
import { parsePrefix } from '../core/address.ts'
import { usageError } from '../core/errors.ts'
import type { Decoded } from '../core/result.ts'
import { parseSelector, SELECTOR_FORMS, type Selector } from '../core/selector.ts'
import { decodeKey } from '../crypto/keys.ts'

/** A string that one of godwit's own parsers accepts; its reason is the message. */
export function text(parse: (text: string) => Decoded<unknown>, description: string) {
  return z
    .string()
    .superRefine((value, context) => {
      const result = parse(value)
      if (!result.ok) context.addIssue({ code: 'custom', message: result.reason })
    })
    .describe(description)
}

/** `HOST:PORT`, `[IPv6]:PORT`. The host may be a name. */
export function parseHostPort(value: string): Decoded<{ host: string; port: number }> {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s:[\]]+)):(\d{1,5})$/.exec(value)
  const port = Number(match?.[3])
  if (!match || port < 1 || port > 65535) {
    return {
      ok: false,
      reason: `"${value}" is not HOST:PORT, e.g. anchor.example.org:51820 or [2001:db8::1]:51820`,
    }
  }
  return { ok: true, value: { host: match[1] ?? match[2]!, port } }
}

const UNITS: Readonly<Record<string, number>> = {
  ...{ '': 1, B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 },
  ...{ KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 },
}

/** `20GB`, `1.5 GiB`, `500000`. */
export function parseBytes(value: string): Decoded<number> {
  const [, number, unit] = /^(\d+(?:\.\d+)?) ?([A-Za-z]*)$/.exec(value) ?? []
  const factor = UNITS[unit ?? '']
  if (number === undefined || factor === undefined)
    return { ok: false, reason: `"${value}" is not an amount of bytes, e.g. 20GB or 500MiB` }
  return { ok: true, value: Math.round(Number(number) * factor) }
}

export const name = (what: string) =>
  z
    .string()
    .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'a name has at most 63 letters, digits, ".", "_" and "-"')
    .describe(what)

/** An interface name; `*` stands for any characters. */
export const accessPattern = z
  .string()
  .regex(/^[^\s/]{1,15}$/, 'an interface name, or a pattern with *, e.g. "wlan*"')
export const key = (what: string) => text(decodeKey, what)
export const prefix = (what: string) => text(parsePrefix, what)
export const selector = text(parseSelector, `One of: ${SELECTOR_FORMS}.`)
export const publicPort = z.int().min(1).max(65535)

/** What to do about packet filters of other programs that drop forwarded packets. */
export const firewall = z
  .enum(['open', 'leave'])
  .default('open')
  .describe(
    "`open`: if another program's packet filter (Docker, ufw, firewalld) would drop forwarded packets, insert accept rules for this device, and remove them at the end. `leave`: only log which chain drops them.",
  )

/** Reports what is wrong at a place of the configuration. */
export type Issue = (path: readonly (string | number)[], message: string) => void

/** No two entries have the same name. */
export function unique(
  entries: readonly { readonly name: string }[],
  what: string,
  issue: Issue,
  path: readonly string[],
): void {
  const seen = new Set<string>()
  for (const [i, { name: each }] of entries.entries()) {
    if (seen.has(each)) issue([...path, i, 'name'], `a second ${what} is called "${each}"`)
    seen.add(each)
  }
}

/** The value of text that the schema has validated already. */
export function must<T>(parsed: Decoded<T>): T {
  if (parsed.ok) return parsed.value
  throw usageError(parsed.reason)
}

export function selectorOf(given: string): Selector {
  return must(parseSelector(given))
}
