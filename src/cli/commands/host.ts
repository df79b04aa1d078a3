/** `join`. */
import { readFileSync } from 'node:fs'
import { usageError } from '../../core/errors.ts'
import { join as joinAnchor, joinWireguard } from '../../host/setup.ts'
import { State } from '../../host/state.ts'
import type { CommonOptions } from '../definition.ts'
import { printJson, printLines } from '../output.ts'

export async function join(
  invitation: string | undefined,
  options: CommonOptions & { readonly wg?: string },
): Promise<void> {
  const state = new State(options)
  if ((invitation === undefined) === (options.wg === undefined)) {
    throw usageError('give an invitation or --wg FILE', {
      hint: 'godwit anchor invite NAME, on the anchor, prints one',
    })
  }
  const joined =
    options.wg !== undefined
      ? joinWireguard(state, options.wg)
      : joinAnchor(state, invitation === '-' ? readFileSync(0, 'utf8') : invitation!, Date.now())
  if (options.json) {
    printJson(joined)
    return
  }
  const flag = options.state === undefined ? '' : ` --state ${options.state}`
  printLines([
    `joined ${joined.peer} as ${joined.addresses.join(', ')}; wrote ${joined.config}`,
    `next: sudo godwit up${flag}`,
  ])
}
