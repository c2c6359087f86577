//! Takes HTTP requests to the registered services behind it: routed, authenticated, limited, retried, balanced, guarded.
//!
//! ```
//! use gusset_gateway::{Gateway, Route};
//! use gusset_ratelimit::Quota;
//! use gusset_registry::MemoryRegistry;
//! use http::{Method, Request};
//! use http_body_util::Empty;
//! use tower::ServiceExt;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let registry = MemoryRegistry::default();
//! let orders = Route::new("/api/orders/{id}").methods([Method::GET]).to("order-service");
//! let gateway = Gateway::builder(registry)
//!     .route(orders.strip_prefix("/api").quota(Quota::per_minute(100)))
//!     .build()?;
//!
//! let request = Request::get("http://shop.example/api/products").body(Empty::<bytes::Bytes>::new())?;
//! let answer = gateway.clone().oneshot(request).await?;
//! assert_eq!(answer.status(), 404);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Gateway`] | the front door, a tower service of HTTP requests that never fails |
//! | [`Live`] | one that can be exchanged while it serves |
//! | [`Builder`], [`BuildError`] | what makes one, and checks all of it before |
//! | [`Route`], [`Condition`], [`Upstream`] | which requests go where, and under which conditions |
//! | [`Split`], [`Variant`], [`Sticky`], [`Rollout`] | which of several upstreams, and how one takes over from another |
//! | [`Mirror`] | copies of requests for another upstream |
//! | [`HeaderEdits`], [`Redirect`], [`FixedAnswer`] | what is changed in heads, and what is answered without an upstream |
//! | [`UpstreamPolicy`], [`Picker`] | how one upstream is called where it differs: breaker, retries, choice and ejection of instances |
//! | [`Transport`], [`Connections`], [`HostHeader`] | HTTP/1.1 or HTTP/2, TLS, `Host`, how many connections, and how long |
//! | `UpstreamTls`, `UpstreamTlsFiles` (feature `tls`) | whom the gateway takes for an instance, and what it shows itself |
//! | [`Authenticate`], [`Identity`], [`AuthError`] | who sent a request, and what they may |
//! | [`ApiKeys`], [`ByCertificate`], `Jwt` (feature `jwt`) | ways to find that out |
//! | [`IdentityHeaders`] | how upstreams are told |
//! | `FanOut`, `Branch` (feature `compose`) | one request that becomes several, and their answers one |
//! | `Descriptors`, `GrpcMethod` (feature `grpc-json`) | clients that send JSON ask services that speak gRPC |
//! | [`Cors`] | which web pages may read answers |
//! | [`Idempotency`], [`IdempotencyStore`], [`AnswersInMemory`], `AnswersInRedis` (feature `redis`) | what `Idempotency-Key` means, and where answers are kept |
//! | [`PeerAddr`], [`Network`], [`Client`] | where it came from, and which proxies are believed |
//! | [`serve`], [`Server`], [`Listeners`], [`ServeError`], [`Undrained`] | a listener, or one for each core, that bounds its clients and ends without losing requests |
//! | `Tls`, `TlsFiles` (feature `tls`) | certificates that are read again when they change |
//! | `config` (feature `config`) | all of it out of a TOML file, with everything that is wrong in it told at once |
//! | [`ByHost`] | the way out of a program that knows nothing of discovery: a gateway for each service that a `Host` names |
//! | `Admin` (feature `admin`) | health, metrics, routes, circuits, drain, reload, for operators |
//! | [`AccessLog`] | a line for each request |
//! | [`RouteStats`], [`RouteLimit`], [`Breaker`] | what became of the requests, how their quotas are used, and how the instances are |
//!
//! # The way of a request
//!
//! trace and metrics → host and path → route → preflight → sender → scopes and roles → quota → size → deadline → attempts → instance → its circuit →
//! what is left of the deadline → span of the attempt → connection. Up to the size, nothing waits but for keys that must be fetched; what is refused there costs the
//! upstream nothing. Bodies are streamed both ways and never collected; only what a retry may need is kept, up to 64 KiB.
//!
//! The instance is the less loaded of two by chance ([`Builder::pick`]), among the healthy ones whose circuits are not open; newcomers begin with
//! a tenth of their share, and who fails much more often than the others is left out for a while ([`Builder::among`]).
//!
//! # What it answers itself
//!
//! Every answer is a problem (RFC 9457) with the trace's identifier, and names neither services nor addresses.
//!
//! | status | when | with |
//! |---|---|---|
//! | 400 | not exactly one valid host; a path that servers read in different ways, also after rewriting; a malformed body | |
//! | 401, 403 | [`AuthError`]; a scope or a role is missing ([`Route::scopes`], [`Route::roles`]) | `WWW-Authenticate` (RFC 6750) |
//! | 404 | no route has this path | |
//! | 405 | one has, with other methods | `Allow` |
//! | 408 | the deadline passed while the client was still sending its body | |
//! | 409, 422 | a request with its [`Idempotency`] key is under way, or was another one | `Retry-After` |
//! | 413 | the body is larger than [`Route::body_limit`] | |
//! | 415 | the body of a `GrpcMethod` is no JSON by its media type | |
//! | 429 | the client is above its [`Route::quota`] | `Retry-After`, `RateLimit-Policy`, `RateLimit` |
//! | 501 | a transfer coding other than chunks | |
//! | 502 | an instance cannot be reached, breaks off, or answers nonsense | |
//! | 503 | too many are under way ([`Route::in_flight`], [`Builder::shed`]); no instance is healthy, or all circuits are open; the keys of tokens cannot be had; Redis does not answer where it must | `Retry-After` where known |
//! | 504 | no answer within [`Route::timeout`] | |
//!
//! Clients that speak something else over HTTP are told in its way, by the media type of what they send: gRPC and gRPC-Web get a status without messages
//! (`grpc-status`, `grpc-message`, `grpc-retry-pushback-ms`), single calls of Connect an error with its code, streams of Connect a last message with one.
//!
//! What an upstream answers is passed on as it is, errors too. [`Server`] itself refuses heads of HTTP/1.1, with problems too, and ends their connections: 400 for what can be read in two ways (both
//! a `Content-Length` and a `Transfer-Encoding`, two lengths, a lone LF, folded lines, a fragment …), 408 for a head that comes too slowly, 414 for a target above 16 KiB,
//! 431 for more than 32 KiB or 100 lines, 501 for a transfer coding other than chunked, 505 for a version that it does not speak.
//!
//! # What it changes in a message (RFC 9110, 7.6)
//!
//! - The path is forwarded in the normal form that was matched; see [`Route::new`].
//! - Both ways, what belongs to a connection is removed: `Connection` and what it names, `Keep-Alive`, `Upgrade`, `Transfer-Encoding`,
//!   and so on, `TE` but for `trailers`, and an upgrade that the route [allows](Route::upgrades). It cannot be used to remove `Host`, credentials or forwarding fields. A line is added to `Via`.
//! - `Host` is the instance's, or what its upstream ([`HostHeader`]) or the route ([`Route::host_header`]) says. `X-Forwarded-For`, `-Host` and `-Proto` say where the request came from; what a client
//!   says there is removed unless it is a [trusted proxy](Builder::trusted_proxies), and so are `x-gusset-*` and timeouts.
//! - `x-gusset-subject`, `-scopes`, `-roles` and `-claim-…` say who sent it, and are the gateway's alone; the credential is removed
//!   ([`IdentityHeaders`], [`Route::keep_credentials`]).
//! - What an answer says of CORS is replaced where there is a [`Cors`].
//! - `traceparent` is the attempt's span; `x-request-timeout-ms` what is left of the deadline.
//!
//! # Which route
//!
//! | fact | test |
//! |---|---|
//! | the most specific route takes a request, in whatever order they were added | `the_most_specific_route_takes_a_request_in_whatever_order_they_were_added` |
//! | `*.shop.example` stands for all hosts below | `a_wildcard_stands_for_all_hosts_below_and_the_longest_goes_first` |
//! | 404 for no route; 405 with `Allow` for another method | `an_unknown_path_is_404_and_a_known_one_with_another_method_405` |
//! | fixed answers ask nobody, health too | `a_fixed_answer_asks_no_upstream_but_who_sends_it` |
//! | versions by path, field, media type, query | `versions_are_told_apart_by_path_field_media_type_and_query` |
//! | conditions do not see what strangers may not say | `conditions_do_not_see_what_strangers_may_not_say` |
//! | two routes that chance would tell apart are refused | `two_routes_for_the_same_requests_are_rejected` |
//! | rewriting makes no dot segments | `parts_of_segments_cannot_be_put_together_to_dot_segments` |
//! | fields are changed on both sides; those that frame a message are not | `fields_are_changed_on_both_sides`, `a_route_that_makes_no_sense_is_refused_with_its_reason` |
//! | parts of one service share requests by weight; a part without instances is passed over | `parts_of_one_service_share_its_requests_by_weight`, `a_part_without_a_healthy_instance_is_passed_over` |
//! | a switch and its revert under load cost no request | `a_switch_and_its_revert_under_load_cost_no_request` |
//! | clients stay with their variant, and only those move that must | `a_client_stays_with_its_variant_by_a_cookie_and_moves_only_when_it_must`, `a_change_moves_only_the_keys_that_it_must` |
//! | a rollout goes from 1 to 100 %, and ends by itself where it fails or is slow | `a_rollout_goes_from_one_percent_to_all_by_the_calls_alone`, `a_rollout_that_fails_gives_everything_back_by_itself` and its neighbours |
//! | copies cost their request nothing, are bounded, and whole or none | `copies_go_elsewhere_as_the_upstream_sees_them_and_nobody_sees_their_answers` and its neighbours |
//! | a full route refuses at once; a saturated gateway the less important first | `a_full_route_refuses_at_once_and_others_go_on`, `a_saturated_gateway_refuses_the_less_important_first_and_still_tells_its_health` |
//! | clients do not choose the host of a redirect | `a_target_names_its_host`, `a_redirect_takes_parameters_and_query_along` |
//!
//! # How instances are called
//!
//! | fact | test |
//! |---|---|
//! | a host goes by its name, whose addresses are looked up again; a failure of that changes nothing | `hosts_are_found_by_their_names_and_asked_by_them`, `what_was_known_stays_while_the_name_server_fails_hangs_or_knows_nothing` |
//! | calls are spread by every picker of the registry, or stay by a field or a cookie | `every_picker_of_the_registry_spreads_the_calls_of_an_upstream`, `the_same_key_goes_to_the_same_instance` |
//! | an open circuit is passed over; an instance that fails is asked less long before | `an_open_circuit_is_passed_over_without_a_retry`, `an_instance_that_fails_is_asked_less_long_before_its_circuit_opens` |
//! | what may be repeated is, within a budget; nothing else that may have been acted on | `retries_are_bounded_by_a_budget_that_routes_to_one_upstream_share`, `a_post_that_may_have_been_acted_on_is_not_made_again` |
//! | a slow request is made a second time, and the first answer is taken | `a_slow_request_is_made_a_second_time_and_the_first_answer_is_taken` |
//! | an upstream that hangs is 504, and counts as a failure | `an_upstream_that_hangs_is_504_and_counts_as_a_failure_while_an_impatient_client_does_not` |
//! | a killed instance, and a rolling restart, lose no request | `an_instance_that_is_killed_under_load_costs_no_get`, `a_rolling_restart_under_load_loses_no_request_though_none_is_sent_twice` |
//! | instances of the own zone, and newcomers, have their shares | `instances_of_the_own_zone_take_all_requests_while_there_are_enough`, `a_newcomer_begins_with_a_small_part_of_its_share` |
//! | HTTP/2 by prior knowledge or ALPN where the upstream says so; gRPC always, its trailers come back | `instances_are_called_by_http_2_where_their_upstream_says_so`, `grpc_goes_by_http_2_always_and_its_status_comes_back` |
//! | calls that begin at once make one connection, and more are made when an instance takes no more streams | `calls_that_begin_at_once_make_one_connection`, `another_connection_is_made_when_an_instance_takes_no_more_streams_by_one` |
//! | a connection that goes away costs no call | `a_connection_that_goes_away_gets_no_more_calls_and_those_under_way_end` |
//! | an instance is who its certificate says (host, SPIFFE identifier or trust domain), or is not called | `an_instance_is_who_its_certificate_says_or_is_not_called` |
//! | the gateway's own certificate is shown, and read again when it changes | `a_gateway_without_a_certificate_that_is_believed_gets_nowhere`, `a_changed_certificate_is_shown_by_new_connections_and_a_broken_one_never` |
//! | a client that leaves resets the connection, or the stream; what breaks off never looks whole | `who_leaves_resets_the_stream` and its neighbours |
//! | the body of an answer that does not go on breaks off | `a_body_that_does_not_go_on_breaks_off_and_its_connection_with_it` |
//! | a call waits for a first instance as long as its upstream says | `a_call_waits_for_a_first_instance_as_long_as_its_upstream_says`, `who_has_no_instance_is_waited_for_as_long_as_the_file_says` |
//! | what comes before an answer (1xx, by either version) is never taken for it, and passed over 16 times at most | `interim_answers_are_never_taken_for_the_answer`, `interim_answers_are_passed_over_up_to_a_bound`, `interim_answers_of_a_stream_are_passed_over_up_to_a_bound` |
//! | connections to an instance are bounded, and calls wait for them in their order | `connections_are_bounded_and_those_who_wait_for_one_get_it_in_their_order`, `an_idle_connection_of_another_thread_makes_room` |
//! | a client that asks before it sends its body is told by its instance | `a_client_that_asks_first_is_told_to_go_on_by_its_instance_and_not_before` |
//! | an instance that closes idle connections costs no request that may be sent again; others only where the upstream has no [`Connections::fresh_for_unsafe`] | `what_may_be_repeated_never_fails_by_a_connection_that_its_instance_closes`, `by_fresh_connections_everything_is_executed_exactly_once` |
//! | a plain request takes 15 places on the heap at most | `a_plain_request_takes_few_places_on_the_heap` |
//! | a connection serves no more calls and no longer than its upstream says | `a_connection_serves_no_more_calls_and_no_longer_than_its_upstream_says` |
//!
//! # How clients are served
//!
//! | fact | test |
//! |---|---|
//! | a head that can be read in two ways is refused, with a problem, and nothing behind it is read | `what_others_may_read_in_another_way_is_refused`, `a_refused_head_is_answered_with_a_problem_and_ends_the_connection` |
//! | a request is the same however it is cut; those sent ahead are answered in their order | `a_request_is_the_same_however_it_is_cut`, `requests_that_are_sent_ahead_are_answered_in_their_order` |
//! | a body that nobody wants costs the connection only if it has not come, and never the answer | `a_body_that_nobody_wants_costs_the_connection_only_if_it_has_not_come`, `who_sends_more_than_anybody_reads_can_still_read_the_answer` |
//! | a client that leaves ends its call, and the body of its answer | `a_client_that_leaves_ends_its_call`, `a_client_that_leaves_in_the_middle_of_an_answer_ends_its_body` |
//! | an answer that breaks off does not look whole, to HTTP/1.0 either | `an_answer_that_breaks_off_does_not_look_whole` |
//! | slow heads, bodies and readers end | `a_client_that_dribbles_its_head_is_ended`, `a_body_that_stands_still_is_an_error_after_its_time`, `a_client_that_takes_nothing_is_cut` |
//! | early hints reach a client of HTTP/1.1 before its answer, where the server says so | `early_hints_of_either_version_come_before_the_answer_where_the_server_says_so` |
//! | a client is told to go on only if somebody wants its body | `a_client_is_told_to_go_on_only_if_somebody_wants_its_body` |
//! | what does not fit is refused: bodies 413, heads 431, connections of one client | `a_body_above_the_limit_is_413_with_a_length_and_without`, `too_much_head_is_431`, `one_client_has_no_more_connections_than_it_may` |
//! | resets without an end, and heads without an end, cut the connection | `who_resets_requests_faster_than_they_begin_is_cut`, `who_sends_a_head_without_an_end_is_cut` |
//! | above the quota it is 429, for that client on that route | `above_the_quota_it_is_429_for_that_client_on_that_route_only`, `a_quota_follows_the_subject_and_a_custom_key` |
//! | each name has its certificate, which is read again when it changes; the version is agreed upon | `each_name_has_its_certificate_and_who_asks_for_another_gets_the_first`, `a_changed_certificate_is_shown_to_new_connections_and_a_broken_one_never`, `the_version_of_http_is_agreed_upon_in_the_handshake` |
//! | fields of a connection do not go on; nobody forges where a request comes from | `fields_of_one_connection_do_not_go_on_and_the_others_do`, `a_stranger_cannot_forge_where_it_comes_from_and_a_trusted_proxy_is_believed` |
//! | a chunk ends before the next begins, wherever the kernel stops taking bytes | `a_chunk_ends_before_the_next_begins_wherever_the_kernel_stops` |
//! | large bodies pass, and slow readers hold their upstream back, in bounded memory | `large_bodies_pass_both_ways_byte_by_byte`, `a_slow_reader_holds_the_upstream_back_and_memory_stays_bounded` |
//! | another protocol may follow ordinary requests | `an_upgrade_may_follow_ordinary_requests` |
//! | WebSocket by HTTP/2 (RFC 8441) reaches an instance that speaks it by HTTP/1.1 | `websocket_by_http_2_is_spoken_with_an_instance_of_http_1`, `an_instance_that_does_not_switch_is_no_success_by_http_2` |
//! | who speaks WebSocket is told that the server leaves (1001), and so is the instance | `who_speaks_websocket_is_told_on_both_sides_that_the_server_leaves_and_it_waits_for_them`, `goodbye_is_said_between_frames_and_never_in_one` |
//! | the end of the server loses no request | `draining_under_load_loses_no_request`, `on_cores_every_request_is_answered_and_the_end_loses_none` |
//! | frames that break the rules of HTTP/2 end what they must | `tests/raw/frames.rs` |
//!
//! # As an intermediary (RFC 9110, 9112, 9113)
//!
//! | fact | test |
//! |---|---|
//! | the host of an absolute target wins over the field; there is exactly one | `the_host_of_an_absolute_target_wins_over_the_field`, `there_is_exactly_one_host` |
//! | a path is forwarded as it was matched; one that servers read in different ways is refused | `what_was_matched_is_what_is_forwarded`, `a_path_that_servers_read_in_different_ways_is_refused` |
//! | `CONNECT` and `TRACE` go nowhere; the answer to `HEAD` has the length of that to `GET` | `connect_and_trace_go_nowhere`, `head_has_the_length_of_get_and_no_body` |
//! | `Connection` cannot take away what others decide by, in either direction | `connection_cannot_take_away_what_others_decide_by`, `fields_that_an_instance_names_in_connection_do_not_go_on` |
//! | an expectation goes on, and is answered once | `an_expectation_goes_on_and_is_answered_once` |
//! | trailers pass both ways and between the versions, but for those that others would decide by | `trailers_pass_both_ways_between_the_versions`, `trailers_that_others_would_decide_by_do_not_go_on` |
//! | bytes behind an upgrade that was not granted are a request like any other | `bytes_behind_an_upgrade_that_was_not_granted_are_a_request_like_any_other` |
//! | cookies of HTTP/2 become one line; requests and answers pass between the versions | `requests_pass_from_http_2_to_http_1_and_their_answers_back` |
//! | an answer without a `Date` gets one | `a_service_can_end_the_connection_and_an_answer_without_a_date_gets_one` |
//! | an answer that can be read in two ways is 502, and what is beyond it is nobody's | `an_answer_that_can_be_read_in_two_ways_is_502`, `what_an_instance_says_beyond_its_answer_is_nobody_s` |
//! | WebSocket passes as it is, in fragments, byte by byte, and with its close | `messages_of_every_length_come_back` and its neighbours |
//!
//! # Who sends, and who may read
//!
//! | fact | test |
//! |---|---|
//! | identity fields of a client never arrive, however spelled, on any route | `identity_fields_of_a_client_never_arrive_however_they_are_spelled` |
//! | credentials do not go on, also those that nobody looked at | `several_ways_are_asked_in_turn_and_the_one_with_a_credential_decides` |
//! | a scope that is missing is named, 403 | `a_scope_or_a_role_that_is_missing_is_403_and_the_scope_is_named` |
//! | a key file is read again; a bad one changes nothing | `api_keys_are_read_again_when_their_file_changes_and_a_bad_file_changes_nothing` |
//! | certificates name their senders by SPIFFE identifier or host | `a_client_certificate_names_its_sender` |
//! | no token that was changed in any byte is taken (feature `jwt`) | `no_token_that_was_changed_in_any_byte_is_taken` |
//! | unsigned tokens, public keys as secrets, keys in headers and `crit` are refused | `an_unsigned_token_is_refused_however_it_says_so` and its neighbours |
//! | a new key is fetched once, for all who wait, at most every 10 s | `a_new_key_is_fetched_when_the_first_token_names_it_and_a_flood_of_unknown_names_is_not` |
//! | keys from `https` come from whom the certificate says | `keys_come_from_whom_the_certificate_says_or_not_at_all` |
//! | the last keys go on while their issuer is away | `keys_that_cannot_be_had_are_503_and_the_last_ones_go_on` |
//! | times are those of the clock on the wall, wherever it is set | `times_are_those_of_the_clock_on_the_wall_wherever_it_is_set` |
//! | preflights are answered before anybody asks who it is | `a_preflight_is_answered_before_anybody_asks_who_it_is` |
//! | a hundred requests with one key have one effect | `a_hundred_requests_at_once_have_one_effect` |
//! | gateways that share a Redis have one quota and one effect, and one that dies leaves its keys to the others (feature `redis`) | `tests/redis.rs` |
//! | a key is free again if an instance fails or breaks off, or the request was never whole | `an_instance_that_breaks_off_leaves_the_key_free` and its neighbours |
//! | another origin gets no field of CORS | `another_origin_gets_no_cors_field_at_all` |
//! | pages can read the gateway's own errors | `errors_of_the_gateways_own_can_be_read_by_the_page` |
//! | no change of a request moves an answer to somebody else, or reaches an instance in a form that can be read in two ways | `no_change_makes_a_request_ambiguous_or_moves_an_answer_to_somebody_else`, and all of `tests/raw` |
//! | an instance that closes idle connections costs no GET, and its circuit stays closed | `an_instance_that_closes_what_is_idle_costs_no_request`, `idle_connections_that_were_closed_do_not_open_a_circuit` |
//! | what reads bytes of strangers holds for all of them that were tried | `fuzz::tests`, and the targets in the workspace's folder `fuzz` |
//! | under faults nobody gets another's answer, no order is executed twice, and memory stays flat | `under_faults_nothing_is_lost_doubled_or_kept` |
//!
//! # Answers made of others
//!
//! | fact | test |
//! |---|---|
//! | branches are asked at the same time | `branches_are_asked_at_the_same_time` |
//! | what is missing is named with its status, and the rest is there | `what_is_missing_is_named_with_its_status_and_the_rest_is_there` |
//! | a required branch that refuses is the answer, and ends the others | `a_required_branch_that_refuses_is_the_answer_and_the_others_are_cancelled` |
//! | values are copied byte by byte: numbers keep their digits | `answers_become_members_in_the_order_of_the_branches_byte_by_byte` |
//! | path, query and body become fields of every kind | `path_and_query_become_fields_of_every_kind` |
//! | what the path says, nothing else can say | `nothing_says_what_the_path_says_but_the_path` |
//! | what does not fit a message is refused and named | `what_does_not_fit_is_refused_and_named` |
//! | messages of a stream go out as they come in, and a reader that leaves ends the call | `messages_of_a_stream_are_lines_or_events_that_go_out_as_they_come_in` |
//! | a stream that fails does not end as if it were whole | `a_stream_ends_as_its_status_says` |
//! | lines of a body are messages of a stream, in both directions at once | `both_directions_of_a_stream_flow_at_once` |
//! | a segment of the path cannot become another parameter of a query | `whatever_stands_in_the_path_a_query_keeps_its_parameters` |
//!
//! # What operators have
//!
//! | fact | test |
//! |---|---|
//! | requests are counted by route, and traced with their attempts | `requests_are_counted_by_route_and_traced_with_their_attempts` |
//! | web pages do not reach their listener, and beyond loopback it asks for a token (feature `admin`) | `a_web_page_cannot_reach_it_on_loopback`, `a_token_is_asked_for_but_by_probes` |
//! | routes, upstreams, circuits and splits are shown, and changed | `routes_upstreams_and_circuits_are_shown_and_circuits_are_forced`, `weights_that_an_operator_has_set_go_on_until_the_file_says_otherwise` |
//! | who drains is not ready, and serves on | `who_drains_is_not_ready_and_serves_on` |
//! | calls, retries, circuits, quotas, the file and the process are on the page of metrics | `calls_retries_and_circuits_of_an_upstream_are_counted_over_all_its_routes`, `the_page_of_metrics_goes_on_and_tells_what_became_of_the_file` |
//! | of many circuits those that are not closed are shown first | `of_many_circuits_those_that_are_not_closed_are_shown_before_all_others` |
//! | a line for each request, and a disk that is stuck holds up nobody | `a_disk_that_is_stuck_costs_lines_that_are_counted_and_no_request_waits` |
//! | a file is checked as a whole, and exchanged in one step (feature `config`, whose page has more) | `a_file_that_is_wrong_changes_nothing_and_is_told`, `a_hundred_reloads_under_load_fail_no_request` |
//!
//! # What passes through
//!
//! gRPC, gRPC-Web, Connect, server-sent events and whatever else is HTTP: nothing is gathered on the way, neither a body nor a chunk of it.
//!
//! | fact | test |
//! |---|---|
//! | an event arrives before the next one is sent, and a reader that leaves ends the stream | `each_event_arrives_before_the_next_one_is_sent_and_a_client_that_leaves_ends_the_stream` |
//! | both directions flow at once, a request may end long before its answer does, trailers arrive | `both_directions_of_a_call_flow_at_once_and_the_answer_goes_on_after_the_request_has_ended` |
//! | gRPC-Web and Connect arrive as they were sent, by HTTP/1.1 and HTTP/2 | `grpc_web_and_connect_pass_as_they_are_with_the_messages_that_end_them` |
//! | a reader that stops stops the instance | `a_reader_that_stops_stops_the_instance` |
//! | clients of gRPC-Web reach services that speak gRPC alone ([`Route::grpc_web`]), by bytes or base64, and pages may read the status | `tonics_client_of_grpc_web_calls_a_service_that_speaks_grpc_alone`, `a_browser_that_sends_base64_gets_base64_and_may_read_the_status` |
//! | their messages are passed on one by one, and a page that does not read stops the service | `each_message_of_a_stream_arrives_before_the_next_one_is_sent`, `a_page_that_does_not_read_stops_the_service` |
//! | the gateway's own answers are those of the protocol | `answers_of_the_gateways_own_are_told_as_each_protocol_has_them` |
//!
//! # Guarantees
//!
//! - A request that is not idempotent, by its method or an `Idempotency-Key`, is sent a second time only if the first never
//!   reached an instance.
//! - If the client leaves, the upstream's call is cancelled, unless it has an idempotency key on a route with [`Idempotency`]. If the upstream breaks off, so does the answer: it never ends as if it were whole.
//! - An idle connection that its instance closes as a request is sent costs an idempotent request without a body nothing: it is sent again by a fresh one.
//! - A client's fault (a malformed, large or slow body, leaving early) is not counted against an instance.
//!
//! # Differences from
//!
//! - **A hyper proxy as people write it**: it answers a client's malformed body with 400 and not 502, keeps what `Connection` names
//!   away from clients as well, refuses requests without a host, and ends slow clients.
//! - **hyper's server**: it refuses a request with two lengths instead of hiding that, says in a problem why a head is refused, and lets a client that sends more than anybody reads
//!   read its answer before the connection ends.
//! - **axum's `serve`**: it bounds connections, heads and idle time, takes the backlog with it at shutdown, and answers what comes in while
//!   it leaves with `Connection: close` instead of closing at once.
//!
//! # What it does not do
//!
//! No WebSocket over HTTP/2 to instances: clients that speak it so are connected by HTTP/1.1. Early hints (103) of instances reach clients of HTTP/1.1 alone, and only if the server is [told so](Server::early_hints). A connection that asks for another protocol is hyper's from then on, whose reading of
//! heads is laxer.
//!
//! # Features
//!
//! - `http2` (by default): [`Server`] takes HTTP/2 as well, from clients that begin with its preface, and instances are called by it where [`Transport`] says so, for gRPC always. It brings the crate h2.
//! - `compose`: `FanOut`. It brings futures-util, serde and serde_json.
//! - `grpc-json`: `GrpcMethod`, and what `compose` is. It brings prost and prost-reflect.
//! - `tls`: `Server::tls`, with certificates by name that are read again when they change, and certificates of clients; `UpstreamTls` the other way. Adds rustls with ring.
//! - `admin`: `Admin`, what operators see and do. It brings serde_json.
//! - `config`: `config`, a gateway out of a TOML file. It brings `admin`, `grpc-json`, `jwt`, `tls` and the crate toml.
//! - `etcd`: services that etcd knows, in that file. It brings what `EtcdRegistry` does.
//! - `redis`: quotas and answers for `Idempotency-Key` that gateways share: `Route::shared_quota`, `AnswersInRedis`, and `[redis]` in that file. It brings the crate redis.
//! - `jwt`: `Jwt`, senders by signed tokens. It brings ring, serde and serde_json; keys from `https` need `tls` as well.
//!
//! # Memory
//!
//! Per route with a quota 16 bytes for each of 10,000 clients, with a split 2 KiB for each variant, with a mirror 4 MiB of copies; per upstream at most 1,000 circuits and 512 idle connections for each
//! instance and thread; per connection see [`Server`].

mod builder;
mod by_host;
mod gateway;
mod live;
mod routes;
mod traffic;

mod identity;

mod compose;
mod cors;
mod idempotency;

mod access_log;
mod report;
mod server;
mod stats;

#[cfg(feature = "admin")]
mod admin;

mod forward;
mod front;

mod client;
mod headers;
mod host;
mod limit;
mod path;

mod answer;
mod body;
mod buffers;
mod dialect;
mod grpc_web;
mod hints;
mod socket;
mod spare;
#[cfg(any(feature = "config", feature = "tls"))]
#[cfg_attr(
    not(feature = "config"),
    allow(dead_code, unreachable_pub, reason = "files of settings are asked for more")
)]
mod stamps;

#[cfg(feature = "config")]
pub mod config;

mod blame;
mod endpoint;
mod transport;
mod upstream;

/// What the fuzz targets of the workspace's folder `fuzz` call.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

pub use access_log::AccessLog;
#[cfg(feature = "admin")]
pub use admin::{Admin, AdminBuilder, AdminFuture};
pub use builder::{BuildError, Builder};
pub use by_host::{ByHost, ByHostStats};
#[cfg(feature = "compose")]
pub use compose::{Branch, BranchStats, FanOut};
#[cfg(feature = "grpc-json")]
pub use compose::{Descriptors, DescriptorsError, GrpcMethod};
pub use cors::Cors;
pub use gateway::{Gateway, GatewayBody, ResponseFuture};
pub use gusset_call::{NotARatio, Ratio};
pub use gusset_ratelimit::{Concurrency, MalformedNetwork, Network, PeerAddr, Priority};
pub use idempotency::{
    AnswersInMemory, AnswersStats, Begun, Idempotency, IdempotencyStore, Pending, RequestKey,
    StoredAnswer,
};
#[cfg(feature = "redis")]
pub use idempotency::{AnswersInRedis, AnswersInRedisStats};
pub use identity::{
    ApiKey, ApiKeyFileError, ApiKeys, AuthError, Authenticate, Authenticating, ByCertificate,
    Identity, IdentityHeaders, MalformedCertificate, PeerCertificate,
};
#[cfg(feature = "jwt")]
pub use identity::{JwksError, Jwt, JwtAlgorithm, JwtKey, JwtKeyError};
pub use limit::{CommonQuota, RouteLimit};
pub use live::Live;
pub use routes::{Client, Condition, FixedAnswer, HeaderEdits, Redirect, Route, Upstream};
pub use server::{ClientBody, Listeners, ServeError, Server, Undrained, serve};
#[cfg(feature = "tls")]
pub use server::{Tls, TlsError, TlsFiles};
pub use stats::{Breaker, RouteStats};
pub use traffic::{
    Mirror, MirrorStats, Rollout, RolloutAbort, RolloutState, RolloutStatus, Split, SplitError,
    Sticky, Variant, VariantStats,
};
pub use transport::{Connections, HostHeader, Transport};
#[cfg(feature = "tls")]
pub use transport::{UpstreamTls, UpstreamTlsFiles};
pub use upstream::{Picker, UpstreamPolicy};

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
