//! What every [`Store`](tokenward::store::Store) promises, as tests.
//!
//! A store's own tests name a function that makes an empty store, and get one test for each
//! property:
//!
//! ```ignore
//! async fn memory() -> Subject {
//!     Subject::new(Arc::new(MemoryStore::new(Arc::new(TokioClock::default()))))
//! }
//!
//! tokenward_testkit::conformance_tests!(memory);
//! ```
//!
//! The properties use the real clock of the store and never assert how long something takes.

pub mod attempts;
pub mod claims;
pub mod commits;
pub mod connections;
pub mod consumers;
pub mod differential;
pub mod durability;
pub mod feed;
pub mod moving;
mod scene;
pub mod settlements;
pub mod tenants;
pub mod unread;
pub mod upkeep;

pub use scene::Subject;

/// One test for each property of the suite. The argument is an `async fn() -> Subject` that
/// makes an empty store; the calling crate depends on tokio.
#[macro_export]
macro_rules! conformance_tests {
    ($make:path) => {
        $crate::conformance_tests! { $make:
            claims:
                one_of_many_claimers_wins,
                a_repeated_claim_is_the_same_claim,
                a_newer_version_is_handed_over,
                a_recent_failure_cools_claims_down,
                a_dead_grant_is_not_claimed,
                a_missing_grant_is_missing,
                an_abandoned_claim_is_taken_over,
                a_lost_answer_defers_under_a_revoking_provider,
                only_the_owner_extends;
            commits:
                a_commit_is_the_next_version,
                one_of_many_commits_of_a_version_wins,
                a_stale_base_is_superseded,
                a_new_authorization_voids_an_answer,
                a_deletion_voids_an_answer,
                a_late_answer_is_adopted,
                a_repeated_commit_is_recognised,
                a_token_that_another_grant_has_is_kept,
                an_old_token_is_recognised;
            settlements:
                a_death_needs_the_version_and_the_claim,
                trouble_is_announced_once,
                a_released_claim_leaves_no_trace,
                an_unknown_outcome_is_on_record;
            connections:
                a_whole_is_its_parts,
                an_authorization_makes_both,
                an_authorization_replaces_its_own_grant_only,
                connections_page_by_key,
                a_known_token_is_a_conflict,
                one_of_many_authorizations_with_a_token_wins,
                a_patch_is_merged,
                a_link_leaves_no_grant_behind,
                concurrent_patches_are_all_merged,
                the_last_connection_takes_the_grant_with_it,
                connections_are_listed_by_key;
            attempts:
                an_attempt_is_kept_as_it_is,
                one_of_many_redeems_a_code,
                a_connection_has_few_attempts,
                attempts_fall_due,
                attempts_page_by_id,
                a_grant_is_saved_with_its_attempts_end,
                another_account_is_refused,
                a_switch_replaces_the_grant,
                an_unlinked_connection_stays,
                attempts_go_with_their_connection;
            tenants:
                applications_round_trip,
                an_application_with_connections_stays,
                keys_round_trip,
                shown_keys_are_noted,
                clients_round_trip,
                clients_page_by_name,
                a_new_secret_is_not_resealed_away,
                one_value_for_all,
                a_new_value_is_not_replaced;
            consumers:
                consumers_round_trip,
                concurrent_metadata_is_all_merged,
                a_connection_makes_its_consumer,
                a_consumer_with_connections_stays,
                no_connection_outlives_its_consumer,
                consumers_page_by_id,
                settings_round_trip;
            unread:
                answers_are_kept_beside_their_grant,
                few_answers_are_kept,
                answers_page_by_grant,
                a_reseal_needs_the_answer_that_was_read;
            moving:
                a_frozen_store_says_so,
                what_is_restored_is_as_it_was;
            upkeep:
                grants_are_read_at_once,
                what_wants_keeping_alive,
                a_reseal_needs_its_version,
                grants_page_by_id;
            feed:
                none_asks_for_the_position_only,
                every_kind_of_change_in_order,
                what_changes_nothing_is_silent;
            durability:
                everything_survives_reopening;
        }

        /// Random sequences of verbs give what the pure functions give.
        #[test]
        fn the_ledger_agrees() {
            $crate::conformance::differential::agrees_with_the_ledger($make);
        }
    };
    ($make:path: $($area:ident: $($property:ident),+;)+) => {
        $(
            mod $area {
                use super::*;

                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $property() {
                        $crate::conformance::$area::$property($make().await).await;
                    }
                )+
            }
        )+
    };
}
