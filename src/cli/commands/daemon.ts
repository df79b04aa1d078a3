/** `up`, `anchor up`, `down`. */
import { cleanUp, serve } from '../../host/serve.ts'
import { State } from '../../host/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines } from '../output.ts'

export function hostUp(options: CommonOptions): Promise<void> {
  return serve('host', new State(options))
}

export function anchorUp(options: CommonOptions): Promise<void> {
  return serve('anchor', new State(options))
}

export async function down(options: CommonOptions): Promise<void> {
  const state = new State(options)
  await cleanUp(state)
  if (options.json) printJson({ clean: true })
  else printLines(['nothing of godwit is left in the kernel'])
}
