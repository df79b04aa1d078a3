/** Takes the access away that carries the download, again and again, and gives it back in between. */
import { monotonicMs } from '../programs/program.ts'
import { type Download, type Handover, handoverAt } from './mptcp-kit.ts'

/** How long it is away at least. */
const GONE_MS = 800
/** The kernel reports carriers once a second: a loss that follows closer would be measured with its delay. */
const BACK_MS = 1200
/** No event belongs to a black hole. */
const SILENT_BACK_MS = 500

export async function loseCarrier(
  download: Download,
  count: number,
  state: 'down' | 'blackhole',
  /** A subflow is expected on the access when it is back. */
  standby: boolean,
): Promise<Handover[]> {
  const { context, ends } = download
  const handovers: Handover[] = []
  for (let index = 0; index < count; index++) {
    const access = download.carrier()
    const at = monotonicMs()
    context.lab.setLink(access, { state })
    context.note(`${ends}: ${access} ${state === 'down' ? 'loses its link' : 'swallows everything'}`)
    handovers.push(handoverAt(at))
    await context.sleep(GONE_MS)
    await download.carriedBy(access === 'acc1' ? 'acc2' : 'acc1')
    const back = standby ? download.heardFrom(access) : undefined
    context.lab.setLink(access, { state: 'up' })
    // No event says that it is back, and the proxy waits ever longer before it tries again.
    if (state === 'blackhole' && ends !== 'kernel-kernel') await download.join(access)
    await back
    await context.sleep(state === 'down' ? BACK_MS : SILENT_BACK_MS)
  }
  return handovers
}
