/** No tunnel at all: the link itself, the upper bound. */
import type { Subject } from './subject.ts'

export const veth: Subject = {
  name: 'veth',
  families: [4, 6],
  missing: () => undefined,
  start: async (bed, family) => ({ target: bed.b.addressOf(family), stop: async () => {} }),
}
