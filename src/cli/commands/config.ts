/** `config check` and `config schema`. */
import { resolve } from 'node:path'
import { loadConfig } from '../../host/configuration/config.ts'
import { claimantOf } from '../../host/configuration/plan.ts'
import { jsonSchema } from '../../host/configuration/schema.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines } from '../output.ts'

export async function check(file: string | undefined, options: CommonOptions): Promise<void> {
  const path = file === undefined ? new State(options).configFile : resolve(file)
  const config = loadConfig(path)
  const { role, describe } = claimantOf(config)
  const what = describe === undefined ? '' : `, ${describe(config)}`
  if (options.json) printJson({ file: path, role, ok: true })
  else printLines([`${path} is valid: ${role}${what}`])
}

export async function schema(): Promise<void> {
  process.stdout.write(`${JSON.stringify(jsonSchema(), null, 2)}\n`)
}
