/** Ten minutes behind a carrier's NAT that ends mappings at 60 s (issue 13, "How good"), on the real kernel. */
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { losesNoneBehindCarrier } from '../../suites/host-carrier.ts'

usePrivateNames()
losesNoneBehindCarrier(
  'issue 13: once the first has ended, ten minutes of a datagram every 5 ms each way lose none',
  60_000,
  600_000,
)
