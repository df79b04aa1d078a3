/** `up`, `anchor up`, `down`. */
import { cleanUp, serve } from '../../host/daemon/serve.ts'
import { State } from '../../host/stores/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines } from '../output.ts'

export function hostUp(options: CommonOptions): Promise<void> {
  return serve('host', new State(options))
}

export function anchorUp(options: CommonOptions): Promise<void> {
  return serve('anchor', new State(options))
}

export async function down(options: CommonOptions): Promise<void> {
  const role = await cleanUp(new State(options))
  if (options.json) printJson({ clean: true, role })
  else printLines([`nothing of godwit ${role} is left in the kernel`])
}
