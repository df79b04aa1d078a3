/** `npm run docs`: writes what is made from the code: configuration reference, its JSON schema, the manual page. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { manualPage } from '../src/cli/manual.ts'
import { buildProgram } from '../src/cli/program.ts'
import { configurationReference } from '../src/host/configuration/reference.ts'
import { jsonSchema } from '../src/host/configuration/schema.ts'

/** Every generated file with its text. */
export function generatedFiles(): ReadonlyMap<string, string> {
  return new Map([
    ['docs/configuration.md', configurationReference()],
    ['docs/config.schema.json', `${JSON.stringify(jsonSchema(), null, 2)}\n`],
    ['man/godwit.1', manualPage(buildProgram())],
  ])
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..')
  for (const [name, text] of generatedFiles()) {
    mkdirSync(dirname(join(root, name)), { recursive: true })
    writeFileSync(join(root, name), text)
  }
}
