/** The section of a node of the overlay: [overlay]. What login gave is in the state's folder. */
import * as z from 'zod'
import { accessPattern } from '../mechanism/schema.ts'

const overlay = z
  .strictObject({
    accesses: z
      .array(accessPattern)
      .default(['*'])
      .describe('Interfaces to use towards peers and servers, most preferred first; patterns with `*`.'),
    dns: z
      .enum(['auto', 'resolved', 'resolvconf', 'file', 'none'])
      .default('auto')
      .describe(
        'Where this daemon is registered as name server for the overlay. `auto`: systemd-resolved, else resolvconf, else `file`. `file`: a line in /etc/resolv.conf, removed when the daemon stops. `none`: nowhere.',
      ),
  })
  .describe('Makes this machine a node of an overlay, after `godwit overlay login`.')

export const overlaySections = { overlay: overlay.optional() }

export type OverlaySettings = z.output<typeof overlay>
