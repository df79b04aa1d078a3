/**
 * `npm run mutants -- [AREA...] [--sample N] [--seed N] [--json]`: how many of the ways to break the protocol cores and
 * tables a test notices (docs/testing.md).
 */
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { AREAS } from './mutants/areas.ts'
import { measureAreas } from './mutants/run.ts'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..')

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    sample: { type: 'string', default: '40' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  },
})
const names = AREAS.map(({ name }) => name)
const unknown = positionals.find((name) => !names.includes(name))
if (unknown !== undefined) {
  process.stderr.write(`mutants: no area ${unknown}; there are ${names.join(', ')}\n`)
  process.exit(2)
}
const scores = await measureAreas({
  root,
  areas: positionals,
  sample: Number(values.sample),
  seed: Number(values.seed),
  say: (line) => void process.stderr.write(`${line}\n`),
})
if (values.json) process.stdout.write(`${JSON.stringify(scores, null, 2)}\n`)
else {
  for (const { area, mutants, tried, killed } of scores) {
    const share = ((100 * killed) / tried).toFixed(0)
    process.stdout.write(
      `${area.padEnd(22)} ${String(killed).padStart(4)} of ${tried} killed, ${share} % (of ${mutants} mutants)\n`,
    )
  }
}
