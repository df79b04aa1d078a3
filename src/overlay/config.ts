/** The section of a node of the overlay: [overlay]. What login gave is in the state's folder. */
import * as z from 'zod'
import { accessPattern } from '../mechanism/schema.ts'

const overlay = z
  .strictObject({
    accesses: z
      .array(accessPattern)
      .default(['*'])
      .describe(
        'Interfaces that peers and servers are reached over, the most preferred first; patterns with `*`.',
      ),
    dns: z
      .enum(['auto', 'resolved', 'resolvconf', 'file', 'none'])
      .default('auto')
      .describe(
        'Who is told that the names of the overlay are asked of this daemon. `auto`: systemd-resolved, else resolvconf, else `file`. `file`: a line in /etc/resolv.conf, taken out at the end. `none`: nobody.',
      ),
  })
  .describe('Makes this machine a node of an overlay, after `godwit overlay login`.')

export const overlaySections = { overlay: overlay.optional() }

export type OverlaySettings = z.output<typeof overlay>
