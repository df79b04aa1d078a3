/** `up`, `anchor up`, `down`, `reload`. */
import { ControlClient } from '../../host/control/client.ts'
import type { Reloaded } from '../../host/daemon/reload.ts'
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

export async function reload(options: CommonOptions): Promise<void> {
  const { applied, restart } = await new ControlClient(new State(options).socket).post<Reloaded>('/v1/reload')
  if (options.json) printJson({ applied, restart })
  else if (applied.length + restart.length === 0) printLines(['nothing has changed'])
  else
    printLines([
      ...(applied.length > 0 ? [`in effect: ${applied.join(', ')}`] : []),
      ...(restart.length > 0 ? [`needs a restart: ${restart.join(', ')}`] : []),
    ])
}

export async function down(options: CommonOptions): Promise<void> {
  const role = await cleanUp(new State(options))
  if (options.json) printJson({ clean: true, role })
  else printLines([`removed everything of godwit ${role} from the kernel`])
}
