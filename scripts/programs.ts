/**
 * Which external programs the files of the repository start, and which they declare with `usesPrograms`. `npm test`
 * installs what the tests declare; a test fails on a program that is started and not declared.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Program } from '../src/linux/packages.ts'

/** Parts of every Debian (`Essential: yes`: bash, coreutils, dash, mount, util-linux …), and what runs the tests. */
const ESSENTIAL = new Set(
  'sh bash cat chmod cp dd echo env false grep hostname join kill link ln ls mkdir mount mv printf readlink rm sed setpriv sleep sort stat sync tar test touch true umount uname unshare wc node npm'.split(
    ' ',
  ),
)

/** Words of the product's own commands and of test data that are programs too on some machines. */
const WORDS = new Set(['duplicates', 'init', 'last', 'route'])

/** What a call such as `bed.run('m', 'nft', …)`, `spawnSync(…)` or `host.start(…)` starts: its first literal words. */
const CALL =
  /\b(?:spawn|spawnSync|spawnIn|execFile|execFileSync|run|said|start|serve)\(\s*(?:[\w.!$]+,\s*)?'([\w.-]+)'(?:,\s*\[?\s*'([\w.-]+)')?/g
/** `ip netns exec NAME program` and the first words of a shell's text. */
const SHELL = /(?:'-c',\s*['"`]|&&\s+|\bexec\s+)([a-z][\w.-]*)\s/g

const DECLARATION = /\b(?:usesPrograms|missing)\(([^)]*)\)/g

/** The programs that a file declares. */
export function declaredIn(text: string): string[] {
  return [...text.matchAll(DECLARATION)].flatMap(([, names]) =>
    [...names!.matchAll(/'([\w.-]+)'/g)].map(([, name]) => name!),
  )
}

/** The words of a file that stand where a program stands and are one, by `isProgram`. */
export function startedIn(text: string, isProgram: (word: string) => boolean): string[] {
  const words = [
    ...[...text.matchAll(CALL)].flatMap(([, first, second]) => [first, second]),
    ...[...text.matchAll(SHELL)].map(([, word]) => word),
  ]
  const found = words.filter(
    (word) => word !== undefined && !ESSENTIAL.has(word) && !WORDS.has(word) && isProgram(word),
  )
  return [...new Set(found as string[])].sort()
}

/** Sources in a folder of the repository, with their paths from its root. */
export function sourcesIn(root: string, folder: string): { readonly path: string; readonly text: string }[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .sort()
    .map((name) => join(folder, name))
    .map((path) => ({ path, text: readFileSync(join(root, path), 'utf8') }))
}

/** What the tests of these tiers start. Scenarios and benches beyond the demo's install or name theirs when they run. */
export function programsOfTests(root: string, tiers: readonly string[]): Program[] {
  const network = tiers.some((tier) => tier === 'netns' || tier === 'long')
  // Other versions of Node.js run both, and the demo.
  const nodes = tiers.includes('nodes')
  const folders = ['unit', 'sim', 'netns', 'long'].filter(
    (tier) => tiers.includes(tier) || (nodes && (tier === 'unit' || tier === 'sim')),
  )
  const lab = network || nodes ? sourcesIn(root, 'lab') : []
  const sources = [
    ...['suites', 'support', ...folders].flatMap((folder) => sourcesIn(root, join('test', folder))),
    ...(network || nodes ? sourcesIn(root, 'scripts') : []),
    ...lab.filter(({ path }) => !path.startsWith('lab/scenarios/')),
  ]
  return [...new Set(sources.flatMap(({ text }) => declaredIn(text)))].sort() as Program[]
}
