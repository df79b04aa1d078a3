/** A host behind a carrier's NAT that ends mappings at 8 s. */
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { losesNoneBehindCarrier } from '../../suites/host-carrier.ts'

usePrivateNames()
losesNoneBehindCarrier(
  'issue 13: once the first has ended, a flow of a datagram every 5 ms loses none',
  8_000,
  16_000,
)
