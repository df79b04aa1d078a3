/** The differences between two configurations, and a configuration with only some of them applied. */
import { isDeepStrictEqual } from 'node:util'
import type { Config } from './schema.ts'

type Section = Readonly<Record<string, unknown>>

/** Sections that are compared as a whole: lists, and the accesses, whose keys are names. */
const WHOLE = new Set(['access'])

function sectionsOf(config: Config): Readonly<Record<string, unknown>> {
  return config
}

function isTable(name: string, value: unknown): value is Section {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !WHOLE.has(name)
}

/** Keys with other values, `section.key`, or `section` where that is compared as a whole. */
export function changedKeys(before: Config, after: Config): string[] {
  const [old, now] = [sectionsOf(before), sectionsOf(after)]
  return [...new Set([...Object.keys(old), ...Object.keys(now)])].flatMap((name) => {
    const [a, b] = [old[name], now[name]]
    if (!isTable(name, a) || !isTable(name, b)) return isDeepStrictEqual(a, b) ? [] : [name]
    const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])]
    return keys.filter((key) => !isDeepStrictEqual(a[key], b[key])).map((key) => `${name}.${key}`)
  })
}

/** `before` with the values that `after` has for these keys. */
export function takeKeys(before: Config, after: Config, keys: readonly string[]): Config {
  const taken: Record<string, unknown> = { ...before }
  const now = sectionsOf(after)
  for (const path of keys) {
    const [name, key] = path.split('.') as [string, string | undefined]
    taken[name] =
      key === undefined ? now[name] : { ...(taken[name] as Section), [key]: (now[name] as Section)[key] }
  }
  return taken as Config
}
